"""The list of models, in both vendors' forms."""

from fakes import FakeService
from openai_client import get

VERSION = {"anthropic-version": "2023-06-01"}


def test_openai_list() -> None:
    body = get(FakeService(), "/v1/models").json()
    assert body["object"] == "list" and [m["id"] for m in body["data"]] == ["tiny", "gpt-tiny", "other"]
    assert body["data"][1] == {
        "id": "gpt-tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "mlx-lm",
        "root": "tiny",
        "kind": "generate",
        "context_length": 4096,
        "loaded": True,
        "adapters": [],
    }


def test_openai_model() -> None:
    assert get(FakeService(), "/v1/models/tiny").json()["id"] == "tiny"
    assert get(FakeService(), "/v1/models/gpt-tiny").json()["root"] == "tiny"
    missing = get(FakeService(), "/v1/models/org/none%0a")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_anthropic_form() -> None:
    body = get(FakeService(), "/v1/models?limit=1", VERSION).json()
    assert body["has_more"] and body["first_id"] == "tiny" and body["data"][0]["type"] == "model"
    assert get(FakeService(), "/v1/models/tiny", VERSION).json()["type"] == "model"
    missing = get(FakeService(), "/v1/models/none", VERSION)
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"
    assert get(FakeService(), "/v1/models?limit=x", VERSION).json()["type"] == "error"
