"""The responses API against a service without a model; every event and object is read by OpenAI's own types."""

from typing import Any

import pytest
from fakes import FakeService, answer
from openai_client import post
from test_openai_chat import CALL, SCORED, WEATHER

from mlx_lm.errors import OverloadedError
from mlx_lm.server.work import (
    Finished,
    OutputFormat,
    Started,
    Text,
    Thinking,
    Tool,
    ToolArguments,
    ToolChoice,
    ToolEnd,
    ToolStart,
    Usage,
)

types = pytest.importorskip("openai.types.responses")
PATH = "/v1/responses"
TOOL = {"type": "function", "name": "weather", "description": "Now", "parameters": WEATHER, "strict": True}


def respond(service: FakeService, **fields: Any) -> Any:
    return post(service, PATH, fields)


def events_of(reply: Any) -> list[dict[str, Any]]:
    """The events of a stream, each checked against OpenAI's type of that name, in sequence."""
    import json

    from pydantic import TypeAdapter

    adapter = TypeAdapter(types.ResponseStreamEvent)
    found = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert adapter.validate_python(event).type == event["type"]
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def test_whole_response() -> None:
    service = FakeService(answer("Hello there!"))
    body = respond(service, input="Hi", instructions="Be brief.", metadata={"a": "b"}, user="u").json()
    types.Response.model_validate(body, strict=True)
    assert body["object"] == "response" and body["id"].startswith("resp_") and body["status"] == "completed"
    assert body["error"] is None and body["incomplete_details"] is None and body["store"] is False
    (message,) = body["output"]
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello there!", "annotations": [], "logprobs": []}],
    }
    assert body["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 5},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }
    assert body["metadata"] == {"a": "b"} and body["user"] == "u" and body["text"] == {"format": {"type": "text"}}
    assert service.works[0].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    )


def test_stream_of_text() -> None:
    events = events_of(respond(FakeService(answer("Hello there!")), input="Hi", stream=True))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[6]["text"] == "Hello there!"
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    final = events[-1]["response"]
    assert final["status"] == "completed" and final["output"] == [events[8]["item"]] and final["usage"]


def test_reasoning_text_and_call() -> None:
    body = respond(FakeService(CALL), input="Weather?", tools=[TOOL]).json()
    types.Response.model_validate(body, strict=True)
    reasoning, message, call = body["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me look."}] and reasoning["summary"] == []
    assert message["content"][0]["text"] == "One moment."
    assert call.pop("id").startswith("fc_")
    assert call == {
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "weather",
        "arguments": '{"city": "Oslo"}',
    }
    events = events_of(respond(FakeService(CALL), input="Weather?", tools=[TOOL], stream=True))
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert deltas == ['{"city"', ': "Oslo"}']
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message", "function_call"]


def test_call_that_failed_is_no_call() -> None:
    script = [
        Started(1, 0),
        ToolStart(0, "c", "f"),
        ToolArguments(0, "{"),
        ToolEnd(0, failed=True),
        Text("{oops"),
        Finished("stop", Usage(1, 0, 3)),
    ]
    body = respond(FakeService(script), input="x").json()
    assert [item["type"] for item in body["output"]] == ["message"]
    events = events_of(respond(FakeService(script), input="x", stream=True))
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]


@pytest.mark.parametrize("reason", ["length", "context"])
def test_incomplete(reason: str) -> None:
    body = respond(FakeService(answer("Hel", reason=reason)), input="x").json()
    assert body["status"] == "incomplete" and body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    events = events_of(respond(FakeService(answer("Hel", reason=reason)), input="x", stream=True))
    assert events[-1]["type"] == "response.incomplete"


def test_logprobs() -> None:
    script = [Started(1, 0), Text("Hé", (SCORED,)), Finished("stop", Usage(1, 0, 1))]
    service = FakeService(script)
    body = respond(service, input="x", include=["message.output_text.logprobs"], top_logprobs=2).json()
    types.Response.model_validate(body, strict=True)
    (found,) = body["output"][0]["content"][0]["logprobs"]
    assert found["token"] == "Hé" and found["top_logprobs"][1]["logprob"] == -9999.0
    assert service.works[0].top_logprobs == 2
    events = events_of(respond(FakeService(script), input="x", top_logprobs=2, stream=True))
    assert [len(e["logprobs"]) for e in events if e["type"] == "response.output_text.delta"] == [1]


def test_items_become_turns() -> None:
    service = FakeService()
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Brief."}]},
        {"type": "message", "role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}], "encrypted_content": "x"},
        {"role": "assistant", "content": "Sun and rain."},
        {"role": "user", "content": "Thanks"},
    ]
    assert respond(service, input=items).status_code == 200
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        for i, city in ((1, "Oslo"), (2, "Rome"))
    ]
    assert service.works[0].messages == (
        {"role": "system", "content": "Brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Wait.", "reasoning_content": "hm", "tool_calls": calls},
        {"role": "tool", "content": "sun", "tool_call_id": "c1", "name": "weather"},
        {"role": "tool", "content": "rain", "tool_call_id": "c2", "name": "weather"},
        {"role": "assistant", "content": "Sun and rain.", "reasoning_content": "so"},
        {"role": "user", "content": "Thanks"},
    )


def test_fields_reach_the_work() -> None:
    service = FakeService()
    reply = respond(
        service,
        model="m",
        input="x",
        tools=[TOOL],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "w", "schema": WEATHER, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "none", "summary": "auto"},
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.5,
        store=False,
        truncation="disabled",
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
    )
    assert reply.status_code == 200, reply.text
    (work,) = service.works
    assert work.model == "m" and work.max_tokens == 9 and work.tools == (Tool("weather", "Now", WEATHER, True),)
    assert work.tool_choice == ToolChoice("named", "weather", parallel=False)
    assert work.output == OutputFormat("json_schema", WEATHER, True) and work.thinking == Thinking(enabled=False)
    assert work.top_logprobs is None
    body = reply.json()
    types.Response.model_validate(body, strict=True)
    assert body["text"]["format"]["schema"] == WEATHER and body["tools"][0]["name"] == "weather"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "store": True}, "store"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "truncation": "auto"}, "truncation"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools.0"),
        ({"input": "x", "include": ["file_search_call.results"]}, "include.0"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "text": {"format": {"type": "json_schema", "name": "w"}}}, "text.format.schema"),
        ({"input": "x", "reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    reply = respond(FakeService(), **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith(param), reply.text


def test_errors() -> None:
    assert respond(FakeService(OverloadedError(1, 2.0)), input="x", stream=True).status_code == 503
    script = [Started(1, 0), Text("Hel"), RuntimeError("secret")]
    assert respond(FakeService(script), input="x").status_code == 500
    reply = respond(FakeService(script), input="x", stream=True)
    failed, error = events_of(reply)[-2:]
    assert failed["type"] == "response.failed" and failed["response"]["error"]["code"] == "server_error"
    assert error["type"] == "error" and error["error"]["code"] == "internal_error" and "secret" not in reply.text
