"""Embeddings against a service without a model."""

import base64
import struct
from typing import Any

import pytest
from fakes import FakeService
from openai_client import post

PATH = "/v1/embeddings"


def test_reply() -> None:
    service = FakeService()
    body = post(service, PATH, {"input": ["a", "b"], "model": "mini", "dimensions": 2, "user": "u"}).json()
    assert body == {
        "object": "list",
        "model": "mini",
        "data": [{"object": "embedding", "index": i, "embedding": [1.0, 0.0]} for i in (0, 1)],
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    assert service.embedded == [("mini", ["a", "b"], 2)]


def test_base64_is_little_endian_float32() -> None:
    body = post(FakeService(), PATH, {"input": "a", "encoding_format": "base64"}).json()
    assert struct.unpack("<2f", base64.b64decode(body["data"][0]["embedding"])) == (1.0, 0.0)


@pytest.mark.parametrize(("given", "inputs"), [("a", ["a"]), ([1, 2], [(1, 2)]), ([[1], [2, 3]], [(1,), (2, 3)])])
def test_kinds_of_inputs(given: Any, inputs: list[Any]) -> None:
    service = FakeService()
    assert post(service, PATH, {"input": given}).status_code == 200
    assert service.embedded == [(None, inputs, None)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [None]}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    reply = post(FakeService(), PATH, fields)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param
