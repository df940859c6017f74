"""Anthropic's streams and messages: order, blocks, counts; both forms of a reply say the same."""

import asyncio
import json
from typing import Any

import pytest
from fakes import FakeJob
from hypothesis import given
from hypothesis import strategies as st

from mlx_lm.server.anthropic import signature
from mlx_lm.server.anthropic.events import MessageStream, message_of
from mlx_lm.server.anthropic.request import Reply
from mlx_lm.server.service import collect
from mlx_lm.server.work import (
    Finished,
    Progress,
    Reasoning,
    Started,
    Text,
    ToolArguments,
    ToolEnd,
    ToolStart,
    Usage,
    WorkEvent,
)

USAGE = Usage(prompt_tokens=100, cached_tokens=60, completion_tokens=9, reasoning_tokens=4)
COUNTS = {
    "input_tokens": 40,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 60,
    "output_tokens": 9,
    "output_tokens_details": {"thinking_tokens": 4},
}
CALL: list[WorkEvent] = [
    ToolStart(0, "c1", "Bash"),
    ToolArguments(0, '{"command":'),
    ToolArguments(0, ' "ls"}'),
    ToolEnd(0),
]


def parse(data: bytes) -> list[dict[str, Any]]:
    """Events of a stream; the name of each must be its type."""
    events = []
    for part in data.decode().split("\n\n")[:-1]:
        name, payload = part.split("\n")
        events.append(json.loads(payload.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def stream(*events: WorkEvent, **reply: Any) -> list[dict[str, Any]]:
    state = MessageStream(Reply("m", True, **reply), "msg_1")
    return parse(b"".join(state.feed(event) for event in [Started(100, 60), *events]))


def whole(*events: WorkEvent, **reply: Any) -> dict[str, Any]:
    answer = asyncio.run(collect(FakeJob([Started(100, 60), *events])))
    return message_of(answer, Reply("m", **reply), "msg_1")


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream; checks the order of the events."""
    assert events[0]["type"] == "message_start" and events[-1]["type"] == "message_stop"
    message = events[0]["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    open_block = False
    inputs: dict[int, str] = {}
    for event in events[1:-1]:
        match event["type"]:
            case "content_block_start":
                assert not open_block and event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                open_block = True
            case "content_block_delta":
                assert open_block and event["index"] == len(message["content"]) - 1
                block, delta = message["content"][-1], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] += delta["signature"]
                    case "input_json_delta":
                        assert block["input"] == {}
                        inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            case "content_block_stop":
                assert open_block and event["index"] == len(message["content"]) - 1
                open_block = False
            case "message_delta":
                assert not open_block
                message |= event["delta"]
                message["usage"] = event["usage"]
    for index, text in inputs.items():
        message["content"][index]["input"] = json.loads(text)
    return message


def test_the_exact_stream_of_thinking_text_and_a_call() -> None:
    got = stream(
        Progress(1, 2), Reasoning("h"), Reasoning("m"), Text("Look:"), *CALL, Finished("tool_calls", USAGE)
    )  # fmt: skip
    start = {**COUNTS, "output_tokens": 0, "output_tokens_details": {"thinking_tokens": 0}}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    sign = signature.sign("hm", omitted=False)
    delta = "content_block_delta"
    assert got == [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": start}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "h"}},
        {"type": delta, "index": 0, "delta": {"type": "thinking_delta", "thinking": "m"}},
        {"type": delta, "index": 0, "delta": {"type": "signature_delta", "signature": sign}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": delta, "index": 1, "delta": {"type": "text_delta", "text": "Look:"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "c1", "name": "Bash", "input": {}},
        },
        {"type": delta, "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"command":'}},
        {"type": delta, "index": 2, "delta": {"type": "input_json_delta", "partial_json": ' "ls"}'}},
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": COUNTS},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "end_turn"),
        ("tool_calls", "tool_use"),
        ("length", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("context", "model_context_window_exceeded"),
    ],
)
def test_stop_reasons(reason: Any, expected: str) -> None:
    end = Finished(reason, USAGE, "END" if reason == "stop_sequence" else None)
    for message in (whole(Text("x"), end), put_together(stream(Text("x"), end))):
        assert message["stop_reason"] == expected
        assert message["stop_sequence"] == end.stop_string
        assert message["usage"] == COUNTS


def test_a_call_that_fails_is_text_and_no_block() -> None:
    failed = [*CALL[:2], ToolEnd(0, failed=True), Text('<tool_call>{"name": '), Finished("stop", USAGE)]
    message = put_together(stream(*failed))
    assert message == whole(*failed)
    assert message["content"] == [{"type": "text", "text": '<tool_call>{"name": '}]


def test_eager_calls_come_while_they_are_written() -> None:
    state = MessageStream(Reply("m", True, eager=frozenset({"Bash"})), "msg_1")
    state.feed(Started(1, 0))
    assert [event["type"] for event in parse(state.feed(CALL[0]))] == ["content_block_start"]
    assert [event["type"] for event in parse(state.feed(CALL[1]))] == ["content_block_delta"]
    failed = [*CALL[:2], ToolEnd(0, failed=True), Text("raw"), Finished("stop", USAGE)]
    kinds = [event["type"] for event in stream(*failed, eager=frozenset("*"))]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2


def test_two_calls_and_a_call_without_arguments() -> None:
    second: list[WorkEvent] = [ToolStart(1, "c2", "Now"), ToolEnd(1)]
    message = put_together(stream(*CALL, *second, Finished("tool_calls", USAGE)))
    assert [block["input"] for block in message["content"]] == [{"command": "ls"}, {}]
    assert message == whole(*CALL, *second, Finished("tool_calls", USAGE))


def test_thinking_that_is_not_shown_travels_in_the_signature() -> None:
    events = [Reasoning("se"), Reasoning("cret"), Text("x"), Finished("stop", USAGE)]
    got = stream(*events, omit_thinking=True)
    assert "secret" not in json.dumps(got)
    message = put_together(got)
    assert message["content"][0]["thinking"] == ""
    assert signature.read(message["content"][0]["signature"]) == "secret"
    assert message == whole(*events, omit_thinking=True)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', f'{{"a": {"9" * 5000}}}'])
def test_numbers_that_json_lacks_stay_visible(text: str) -> None:
    events = [ToolStart(0, "c", "f"), ToolArguments(0, text), ToolEnd(0), Finished("tool_calls", USAGE)]
    assert whole(*events)["content"][0]["input"] == {"arguments": text}


def test_an_empty_answer() -> None:
    assert put_together(stream(Text(""), Finished("stop", USAGE))) == whole(Finished("stop", USAGE))
    assert whole(Finished("stop", USAGE))["content"] == []


@given(st.lists(st.sampled_from(["text", "reasoning", "call", "failed"]), max_size=8), st.booleans(), st.booleans())
def test_both_forms_of_a_reply_are_one(kinds: list[str], omit: bool, eager: bool) -> None:
    events: list[WorkEvent] = []
    for index, kind in enumerate(kinds):
        if kind == "text":
            events.append(Text(f"t{index}"))
        elif kind == "reasoning":
            events.append(Reasoning(f"r{index}"))
        elif kind == "call" or not eager:
            events += [ToolStart(index, f"c{index}", "f"), ToolArguments(index, '{"a": 1}')]
            events += [ToolEnd(index)] if kind == "call" else [ToolEnd(index, failed=True), Text("raw")]
    events.append(Finished("stop", USAGE))
    reply = {"omit_thinking": omit, "eager": frozenset("*") if eager else frozenset()}
    assert put_together(stream(*events, **reply)) == whole(*events, **reply)
