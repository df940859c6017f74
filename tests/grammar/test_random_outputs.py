"""A model with random logits under real schemas and grammars: what it finishes, an independent validator accepts.

The schemas: pydantic's of this package's own server and of the official clients where they are installed, the JSON
Schema meta-schemas' own kind, and a collection by hand of what tools and forms look like. The validator is jsonschema,
with its format checks on.
"""

import importlib
import inspect
import json
import os
import pkgutil
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pydantic
import pytest
from random_model import closing_tokens, random_output

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import CFG, JsonSchema, Regex, compile_constraint

CACHE = Path(os.environ.get("MLX_LM_TEST_DATA", Path.home() / ".cache" / "mlx_lm" / "test-data"))


def tool(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)[:2]}


TEXT, WHOLE, REAL, FLAG = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
BY_HAND: list[dict[str, Any]] = [
    tool(city=TEXT, unit={"enum": ["celsius", "fahrenheit"]}),
    tool(amount={"type": "number", "minimum": 0, "maximum": 1000}, code={"type": "string", "pattern": "^[A-Z]{3}$"}),
    tool(when={"type": "string", "format": "date-time"}, where={"type": "string", "format": "uri"}),
    tool(email={"type": "string", "format": "email"}, ip={"type": "string", "format": "ipv4"}),
    tool(id={"type": "string", "format": "uuid"}, count={"type": "integer", "multipleOf": 5, "minimum": 0}),
    tool(items={"type": "array", "items": tool(name=TEXT, price=REAL), "minItems": 1, "maxItems": 2}),
    tool(value={"anyOf": [WHOLE, {"type": "null"}, {"type": "string", "maxLength": 5}]}, ok=FLAG),
    tool(shape={"oneOf": [tool(kind={"const": "circle"}, r=REAL), tool(kind={"const": "box"}, w=REAL, h=REAL)]}),
    {"type": "array", "prefixItems": [WHOLE, FLAG], "items": False, "minItems": 2},
    {"type": "object", "patternProperties": {"^x_[a-z]{1,4}$": WHOLE}, "additionalProperties": False},
    {"type": "object", "additionalProperties": FLAG, "maxProperties": 2},
    {"$defs": {"n": tool(v=WHOLE, next={"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]})}, "$ref": "#/$defs/n"},
    {"allOf": [tool(a=WHOLE), {"properties": {"b": FLAG}, "required": ["b"]}]},
    {"type": "object", "properties": {"a": WHOLE, "b": WHOLE}, "dependentRequired": {"a": ["b"]}},
    {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}, "minItems": 1},
    {"type": ["integer", "boolean", "null"]},
    {"type": "number", "exclusiveMinimum": -1.5, "maximum": 2.25},
    {"const": {"deep": [1, {"x": None}]}},
    {"type": "string", "minLength": 3, "maxLength": 6},
    {"not": {"type": ["object", "array", "string"]}},
]  # fmt: skip


def models_of(package: str) -> list[dict[str, Any]]:
    """JSON Schemas of the pydantic models in a package; empty where it is not installed."""
    try:
        root = importlib.import_module(package)
    except ImportError:
        return []
    found: dict[str, dict[str, Any]] = {}
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        try:
            module = importlib.import_module(info.name)
        except Exception:
            continue
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, pydantic.BaseModel) and value.__module__ == module.__name__:
                try:
                    schema = value.model_json_schema()
                except Exception:
                    continue
                found[json.dumps(schema, sort_keys=True)] = schema
    return list(found.values())


def check(tokenizer: Any, schemas: list[dict[str, Any]], outputs: int) -> tuple[int, int, int]:
    """(schemas, refused ones, finished outputs); fails at the first output that is not valid."""
    refused = finished = 0
    for number, schema in enumerate(schemas):
        try:
            grammar = compile_constraint(JsonSchema(schema), tokenizer)
        except GrammarError:
            refused += 1
            continue
        liked = closing_tokens(grammar.vocabulary)
        kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
        for seed in range(outputs):
            rng = np.random.default_rng((number, seed))
            tokens, done = random_output(grammar.start(), grammar.ends, rng, liked, 300)
            if done:
                finished += 1
                text = tokenizer.decode(tokens)
                errors = [error.message for error in validator.iter_errors(json.loads(text))]
                assert not errors, (schema, text, errors)
    return len(schemas), refused, finished


def test_schemas_by_hand(tokenizer: Any):
    count, refused, finished = check(tokenizer, BY_HAND, 10)
    assert refused == 0
    assert finished > 5 * count


@pytest.mark.slow
@pytest.mark.parametrize("package", ["openai.types", "anthropic.types"])
def test_schemas_of_clients(tokenizer: Any, package: str):
    schemas = models_of(package)
    if not schemas:
        pytest.skip(f"{package} is not installed")
    schemas = schemas[:: max(len(schemas) // 200, 1)]
    count, refused, finished = check(tokenizer, schemas, 2)
    assert refused <= count // 10
    assert finished > count // 4


@pytest.mark.slow
@pytest.mark.skipif(not (CACHE / "corpus" / "corpus.json").is_file(), reason="no schema corpus in the cache")
def test_schemas_of_tools(tokenizer: Any):
    corpus = json.loads((CACHE / "corpus" / "corpus.json").read_text())
    schemas = [schema for source, schema in corpus if source in ("glaive", "cfn")]
    count, refused, finished = check(tokenizer, schemas, 2)
    print(count, refused, finished)
    assert refused <= count // 10
    assert finished > count // 2


GRAMMARS = [
    ('start: "a" start "b" | "ab"', r"a+b+"),
    ("?start: sum\nsum: N (\"+\" N)*\nN: /[0-9]{1,3}/", r"\d+(\+\d+)*"),
    ('root ::= pair ("," pair)*\npair ::= [a-z] "=" [0-9]+', r"[a-z]=\d+(,[a-z]=\d+)*"),
    ('start: %json {"type": "array", "items": {"type": "boolean"}}', r"\[[\s\S]*\]"),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "pattern"), GRAMMARS)
def test_grammars(tokenizer: Any, grammar: str, pattern: str):
    compiled = compile_constraint(CFG(grammar), tokenizer)
    liked = closing_tokens(compiled.vocabulary)
    finished = 0
    for seed in range(20):
        tokens, done = random_output(compiled.start(), compiled.ends, np.random.default_rng(seed), liked, 100)
        if done:
            finished += 1
            assert re.fullmatch(pattern, tokenizer.decode(tokens))
    assert finished > 2


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{2}-\d{4}", r"(yes|no)[.!]?", r"[^\W\d]{1,4}", r"a{,3}b+?"])
def test_patterns(tokenizer: Any, pattern: str):
    compiled = compile_constraint(Regex(pattern), tokenizer)
    liked = closing_tokens(compiled.vocabulary)
    for seed in range(20):
        tokens, done = random_output(compiled.start(), compiled.ends, np.random.default_rng(seed), liked, 60)
        if done:
            assert re.fullmatch(pattern, tokenizer.decode(tokens))
