"""From tokens to events: text, reasoning, calls, stop strings and log-probabilities; limits of reasoning."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_lm.server.output import OutputReader, TokenNote
from mlx_lm.server.service import Answer, collect
from mlx_lm.server.work import Finished, Reasoning, Text, ToolArguments, ToolEnd, ToolStart, Usage
from mlx_lm.tokenizer.parsers import FORMATS, STYLES, ParserChoice, StreamParser

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


class Characters:
    """A tokenizer whose tokens are characters."""

    eos_token_ids = frozenset({0})

    class _Stream:
        last_segment = ""

        def add_token(self, token: int) -> None:
            self.last_segment = chr(token)

        def finalize(self) -> None:
            self.last_segment = ""

    @property
    def detokenizer(self) -> Any:
        return self._Stream()

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def _reader(stop: tuple[str, ...] = (), *, inside: bool = False, raw: bool = False) -> OutputReader:
    choice = ParserChoice(STYLES["think"], FORMATS["json_tools"])
    parser = None if raw else StreamParser(choice, in_reasoning=inside, new_id=lambda name, i: f"id{i}")
    return OutputReader(Characters(), parser, stop, in_reasoning=inside)


def _events(reader: OutputReader, text: str, *, notes: bool = False) -> list[Any]:
    events: list[Any] = []
    for char in text:
        if reader.stopped is None:
            events += reader.add(ord(char), TokenNote(-1.0, ((ord(char), -1.0),)) if notes else None)
    return [*events, *reader.finish()]


def _joined(events: list[Any], kind: type) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def test_reasoning_answer_and_call() -> None:
    reader = _reader()
    events = _events(reader, f"<think>\nhm</think>Well. {CALL}")
    assert _joined(events, Reasoning).strip() == "hm" and _joined(events, Text).strip() == "Well."
    assert [e for e in events if isinstance(e, ToolStart)] == [ToolStart(0, "id0", "add")]
    fragments = [e.json_fragment for e in events if isinstance(e, ToolArguments)]
    assert json.loads("".join(fragments)) == {"a": 1} and len(fragments) > 1
    assert events[-1] == ToolEnd(0) and reader.reason("stop", context_full=False) == "tool_calls"


@pytest.mark.parametrize("broken", [CALL[:-20], CALL.replace("}}", "]}"), "<tool_call>\nnonsense</tool_call>"])
def test_a_broken_call_is_visible_text(broken: str) -> None:
    reader = _reader()
    events = _events(reader, "Well. " + broken)
    assert not any(isinstance(e, ToolEnd) and not e.failed for e in events)
    assert "".join(_joined(events, Text).split()) == "".join(("Well. " + broken).split())
    assert reader.reason("stop", context_full=False) == "stop"


@pytest.mark.parametrize("text", ["abcSTOPdef", "abcSTOP", "abcSTSTOPdef"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_stop_string_ends_the_text(text: str, raw: bool) -> None:
    reader = _reader(("STOP",), raw=raw)
    assert _joined(_events(reader, text), Text) == text[: text.index("STOP")]
    assert reader.stopped == "STOP" and reader.reason("stop", context_full=False) == "stop_sequence"


def test_a_stop_string_in_reasoning_or_arguments_is_none() -> None:
    reader = _reader(("add", "hm"))
    events = _events(reader, f"<think>hm</think>{CALL}")
    assert reader.stopped is None and any(isinstance(e, ToolEnd) for e in events)


def test_what_may_begin_a_stop_string_is_not_lost() -> None:
    for stop in ("STOP", "</x>"):
        assert _joined(_events(_reader((stop,)), "abc" + stop[:-1]), Text) == "abc" + stop[:-1]


def test_log_probabilities_are_one_for_each_token() -> None:
    for text in ("hello world", "<think>hm</think>Well.", "a <b> c"):
        events = _events(_reader(), text, notes=True)
        entries = [note for e in events if isinstance(e, Text | Reasoning) for note in e.logprobs]
        assert "".join(note.text for note in entries) == text
        assert [note.offset for note in entries] == list(range(len(text)))


def test_log_probabilities_end_where_the_text_does() -> None:
    events = _events(_reader(("STOP",), raw=True), "abcSTOP", notes=True)
    entries = [note for e in events if isinstance(e, Text) for note in e.logprobs]
    assert "".join(note.text for note in entries) == "abc"


def test_tokens_of_reasoning_are_counted() -> None:
    reader = _reader(inside=True)
    _events(reader, "hm hm</think>Well.")
    assert 5 <= reader.reasoning_tokens <= 5 + len("</think>") and reader.completion_tokens == 18


async def _play(events: list[Any]) -> Answer:
    class Job:
        async def __aiter__(self) -> Any:
            for event in events:
                yield event

    return await collect(Job())  # type: ignore[arg-type]


def test_collect_joins_what_belongs_together() -> None:
    import asyncio

    events = [Text("a"), Text("b"), ToolStart(0, "i", "f"), ToolArguments(0, "{"), ToolArguments(0, "}"), ToolEnd(0)]
    events += [ToolStart(1, "j", "g"), ToolEnd(1, failed=True), Text("c"), Finished("stop", Usage(1, 0, 2, 0))]
    answer = asyncio.run(_play(events))
    assert answer.text == "abc" and [c.arguments for c in answer.calls] == ["{}"]
    assert [kind for kind, _ in answer.parts] == ["text", "call", "text"]


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n"
    "{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize("budget", [0, 1, 7, 25])
def test_reasoning_is_held_to_its_budget(serve: Any, tiny_model: Any, budget: int) -> None:
    """Random weights would reason for ever: the budget ends it, and an answer comes."""
    with serve(model_id=tiny_model(), chat_template=THINKING) as server:
        body = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 60, "temperature": 0}
        free = server.post("/v1/chat/completions", body).json()
        assert free["usage"]["completion_tokens_details"]["reasoning_tokens"] == 60
        reply = server.post("/v1/chat/completions", {**body, "thinking_budget": budget}).json()
        message = reply["choices"][0]["message"]
        closing = len(server.service.residency.engines[0].tokenizer.encode("</think>"))
        assert len(message["content"]) > 0
        assert budget <= reply["usage"]["completion_tokens_details"]["reasoning_tokens"] <= budget + closing
        kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
        plain = server.post("/v1/chat/completions", {**body, **kwargs}).json()
        assert plain["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_a_form_begins_after_the_reasoning(serve: Any, tiny_model: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1, 2]}, "strict": True}}
    with serve(model_id=tiny_model(), chat_template=THINKING) as server:
        body = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 90, "thinking_budget": 9}
        reply = server.post("/v1/chat/completions", {**body, "response_format": form}).json()
        message = reply["choices"][0]["message"]
        assert json.loads(message["content"]) in (1, 2) and reply["choices"][0]["finish_reason"] == "stop"
