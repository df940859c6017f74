"""Every field has a rule, every rule of an honoured field has a field, and the documents say what the tables say."""

import importlib
import runpy
import typing
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from fakes import FakeService
from openai_client import get
from pydantic import BaseModel

from mlx_lm.server.docs import OPENAI_TABLES, openapi_document
from mlx_lm.server.fields import FieldTable

SCRIPT = Path(__file__).parents[2] / "scripts" / "api_tables.py"
TABLES = pytest.mark.parametrize("table", OPENAI_TABLES, ids=lambda t: t.path)


def paths_of(model: type[BaseModel]) -> set[str]:
    """The paths of a body model's leaves, by the names that clients send."""
    found = set()
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = list(_models(field.annotation))
        found |= {f"{key}{brackets}.{path}" for brackets, m in inner for path in paths_of(m)} if inner else {key}
    return found


def _models(annotation: Any, brackets: str = "") -> typing.Iterator[tuple[str, type[BaseModel]]]:
    if isinstance(annotation, type) and not typing.get_origin(annotation) and issubclass(annotation, BaseModel):
        yield brackets, annotation
    elif typing.get_origin(annotation) in (typing.Union, UnionType):
        for argument in typing.get_args(annotation):
            yield from _models(argument, brackets)
    elif typing.get_origin(annotation) is list:
        yield from _models(typing.get_args(annotation)[0], brackets + "[]")


@TABLES
def test_every_field_has_its_rule(table: FieldTable[Any]) -> None:
    honoured = {path for path, rule in table.rules.items() if rule.fate == "honoured"}
    fields = paths_of(table.model)
    # The options of a stream are one model for all endpoints.
    assert fields - honoured == set() and honoured - fields == set()


@TABLES
def test_every_parameter_of_openais_client_has_its_rule(table: FieldTable[Any]) -> None:
    module, name = {
        "/v1/chat/completions": ("openai.types.chat.completion_create_params", "CompletionCreateParamsNonStreaming"),
        "/v1/completions": ("openai.types.completion_create_params", "CompletionCreateParamsNonStreaming"),
        "/v1/responses": ("openai.types.responses.response_create_params", "ResponseCreateParamsNonStreaming"),
        "/v1/embeddings": ("openai.types.embedding_create_params", "EmbeddingCreateParams"),
    }[table.path]
    pytest.importorskip("openai")
    parameters = getattr(importlib.import_module(module), name).__annotations__  # a TypedDict's hold its bases' too
    known = {path.split(".")[0].removesuffix("[]") for path in table.rules}
    assert len(parameters) > 4 and set(parameters) - known == set()


def test_document_in_the_repository_is_fresh() -> None:
    script = runpy.run_path(str(SCRIPT))
    assert script["PATH"].read_text() == script["text"](), "run scripts/api_tables.py"


def test_openapi_is_whole() -> None:
    document = openapi_document()
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    references = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                references.add(value["$ref"].removeprefix("#/components/schemas/"))
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    assert references <= set(schemas)
    chat = schemas["ChatRequest"]["properties"]
    assert chat["store"]["enum"] == [None, False] and chat["user"]["description"].startswith("Ignored")
    assert {"type": "null"} in chat["stream"]["anyOf"] and "anyOf" not in chat["messages"]
    identities = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(identities) == len(set(identities))


def test_pages() -> None:
    assert get(FakeService(), "/openapi.json").json() == openapi_document()
    page = get(FakeService(), "/docs")
    assert page.status_code == 200 and "<script" not in page.text and "http" not in page.text.replace("https", "http")
    assert "default-src 'none'" in page.headers["content-security-policy"]
