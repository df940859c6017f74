"""Anthropic's endpoints over HTTP, with a scripted service."""

import json
from typing import Any

import pytest
from fakes import FakeService, answer
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mlx_lm.errors import ContextLengthError, MLXLMError, ModelNotFoundError, OverloadedError, UnsupportedError
from mlx_lm.server.anthropic.models import model_list, model_object
from mlx_lm.server.anthropic.routes import anthropic_routes
from mlx_lm.server.errors import error_response
from mlx_lm.server.service import ModelInfo
from mlx_lm.server.work import Finished, Started, Text, ToolArguments, ToolEnd, ToolStart, Usage

BODY = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}


def client(service: FakeService) -> TestClient:
    app = Starlette(routes=anthropic_routes(service), exception_handlers={MLXLMError: error_response})  # type: ignore[dict-item]
    return TestClient(app)


def post(service: FakeService, body: Any = BODY, path: str = "/v1/messages?beta=true", **how: Any) -> Any:
    with client(service) as http:
        return http.post(path, json=body, **how)


def test_a_message() -> None:
    service = FakeService(answer("Hello there!", prompt_tokens=5))
    reply = post(service)
    assert reply.status_code == 200
    message = reply.json()
    assert message.pop("id").startswith("msg_")
    assert message.pop("usage")["output_tokens"] == 2
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello there!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert service.jobs[0].cancelled  # given back when it was over


def test_a_stream() -> None:
    service = FakeService(answer("Hello there!"))
    reply = post(service, {**BODY, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in reply.text.split("\n") if line.startswith("event: ")]
    assert names[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert service.jobs[0].cancelled


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_tells_of_each_answer(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlx_lm.server")
    post(FakeService(answer("Hello there!")), {**BODY, "stream": stream})
    assert "Response: 1 blocks, 2 output tokens" in caplog.text


def test_without_a_model_the_one_that_answers_is_named() -> None:
    body = {key: value for key, value in BODY.items() if key != "model"}
    assert post(FakeService(), body).json()["model"] == "tiny"


def test_an_error_in_the_middle_of_a_stream() -> None:
    service = FakeService([Started(5, 0), Text("He"), UnsupportedError("no more")])
    events = post(service, {**BODY, "stream": True}).text.split("\n\n")
    assert events[-2].startswith("event: error\n")
    error = json.loads(events[-2].split("data: ")[1])
    assert error == {"type": "error", "error": {"type": "invalid_request_error", "message": "no more"}}


def test_a_fault_in_the_middle_says_nothing_of_itself() -> None:
    service = FakeService([Started(5, 0), RuntimeError("/home/x at 0x1234")])
    assert "0x1234" not in post(service, {**BODY, "stream": True}).text


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (
            ContextLengthError(131072, 8192),
            400,
            "invalid_request_error",
            "prompt is too long: 131072 tokens > 8192 max",
        ),
        (ModelNotFoundError("No model 'm'."), 404, "not_found_error", "No model"),
        (OverloadedError(9, 3), 503, "overloaded_error", "9 requests"),
        (UnsupportedError("not that"), 400, "invalid_request_error", "not that"),
    ],
)
def test_errors_before_the_answer(error: Exception, status: int, kind: str, message: str) -> None:
    for stream in (False, True):
        reply = post(FakeService(error), {**BODY, "stream": stream})
        assert reply.status_code == status
        assert reply.json()["type"] == "error" and reply.json()["error"]["type"] == kind
        assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize("body", [[], "x", {}, {**BODY, "messages": 1}, {**BODY, "container": "c"}])
def test_bad_bodies_have_the_vendors_shape(body: Any) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        if path.endswith("tokens") and isinstance(body, dict) and "container" in body:
            continue  # counting takes fields of the answer
        reply = post(FakeService(), body, path)
        assert (reply.status_code, reply.json()["type"]) == (400, "error")
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_counting() -> None:
    service = FakeService(tokens=17)
    assert post(service, {**BODY, "stream": True}, "/v1/messages/count_tokens?beta=true").json() == {"input_tokens": 17}
    assert service.works[0].messages == ({"role": "user", "content": "hi"},)


def test_what_claude_code_asks_besides() -> None:
    with client(FakeService()) as http:
        assert http.get("/api/hello").status_code == http.head("/api/hello").status_code == 200
        assert http.post("/api/event_logging/batch", content=b"\x00").json() == {"status": "ok"}


def test_unknown_fields_are_named_in_the_reply() -> None:
    assert post(FakeService(), {**BODY, "zebra": 1}).headers["x-ignored-fields"] == "zebra"


def test_half_a_surrogate_pair_in_a_tools_input() -> None:
    call = [ToolStart(0, "c", "f"), ToolArguments(0, '{"a": "\\ud800"}'), ToolEnd(0)]
    service = FakeService([Started(1, 0), *call, Finished("tool_calls", Usage(1, 0, 1, 0))])
    assert post(service).json()["content"][0]["input"] == {"a": "?"}


class TestModels:
    ALIASES = ((), ("claude-x",), ())
    MODELS = tuple(ModelInfo(f"m{i}", 1_700_000_000, 4096, aliases=names) for i, names in enumerate(ALIASES))

    def test_one(self) -> None:
        assert model_object(self.MODELS[0]) == {
            "type": "model",
            "id": "m0",
            "display_name": "m0",
            "created_at": "2023-11-14T22:13:20Z",
            "lifecycle": "active",
            "max_input_tokens": 4096,
            "max_tokens": 4096,
        }

    @pytest.mark.parametrize(
        ("query", "ids", "more"),
        [
            ({}, ["m0", "m1", "claude-x", "m2"], False),
            ({"limit": "2"}, ["m0", "m1"], True),
            ({"limit": "2", "after_id": "m1"}, ["claude-x", "m2"], False),
            ({"limit": "1", "before_id": "m2"}, ["claude-x"], True),
            ({"after_id": "m2"}, [], False),
            ({"limit": "1000"}, ["m0", "m1", "claude-x", "m2"], False),
        ],
    )
    def test_pages(self, query: dict[str, str], ids: list[str], more: bool) -> None:
        page = model_list((*self.MODELS, ModelInfo("e", kind="embed")), query)
        assert [entry["id"] for entry in page["data"]] == ids
        assert page["has_more"] is more
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))

    @pytest.mark.parametrize(
        "query",
        [{"limit": "0"}, {"limit": "x"}, {"limit": "-1"}, {"limit": "1001"}, {"limit": "\u00b2"}, {"after_id": "?"}],
    )
    def test_bad_queries(self, query: dict[str, str]) -> None:
        with pytest.raises(MLXLMError):
            model_list(self.MODELS, query)
