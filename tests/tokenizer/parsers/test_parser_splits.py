"""Properties of all parsers: the result does not depend on how the text was cut, and no text is lost."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parser_transcripts import BROKEN, CHANNELS, RENDER, TOOLS, Call, choice

from mlx_lm.tokenizer.parsers import (
    Event,
    Parsed,
    StreamParser,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
    collect,
)

CALLS: list[list[Call]] = [
    [("get_weather", {"city": 'a "b" é\n', "days": 3, "unit": "null"}), ("now", {})],
    [("get_weather", {"options": {"a": [1, {"b": "</c>"}, None]}, "tags": ["x"], "exact": True, "zip": "01"})],
]
PLAIN = [
    "word",
    " ",
    "\n\n",
    "é🦊",
    "<",
    "[",
    "{",
    "}",
    '"',
    ",",
    ":",
    "1",
    "true",
    "\\",
    "'",
    "<|",
    "]",
    "=",
    ")",
    "(",
]
SPLITS = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
CHECKS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def pieces(name: str) -> list[str]:
    """Markers, whole calls, and parts of calls."""
    picked = choice(name)
    assert picked.tools is not None and picked.reasoning is not None
    markers = [*picked.tools.all_starts, picked.tools.end, *picked.tools.ignored, *picked.reasoning.pairs[0]]
    if name in CHANNELS:
        markers += ["<|start|>assistant", "<|message|>", "<|channel|>final", "<|end|>", " to=user"]
    calls = [RENDER[name](one) for one in CALLS]
    parts = [part for call in calls for part in re.findall(r"<[^>]*>|\[[A-Z_]+\]|[^<\[]+", call)]
    broken = [case.text for case in BROKEN if case.format == name]
    return [piece for piece in dict.fromkeys([*markers, *calls, *broken, *parts]) if piece]


def texts(name: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from([*pieces(name), *PLAIN]), max_size=6).map("".join)


def run(name: str, chunks: list[str], **options: Any) -> tuple[list[Event], bool]:
    parser = StreamParser(choice(name), tools=TOOLS, new_id=lambda tool, index: f"{tool}-{index}", **options)
    events = [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()
    assert parser.feed("") == parser.finish() == []
    return events, parser.has_calls


def joined(events: list[Event]) -> list[Event]:
    """The events with neighbours of one kind made one."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, ToolCallArguments) and isinstance(last, ToolCallArguments) and event.index == last.index:
            result[-1] = ToolCallArguments(event.index, last.json_fragment + event.json_fragment)
        elif last is not None and type(event) is type(last) and hasattr(event, "text") and not hasattr(event, "index"):
            result[-1] = type(event)(last.text + event.text)  # type: ignore[union-attr, call-arg]
        else:
            result.append(event)
    return result


def check_calls(events: list[Event], parsed: Parsed, has_calls: bool) -> None:
    started = [event.index for event in events if isinstance(event, ToolCallStart)]
    ended = [event.index for event in events if isinstance(event, ToolCallEnd | ToolCallFailed)]
    assert started == ended == list(range(len(started)))  # one after the other, each with its end
    assert has_calls == bool(parsed.tool_calls)
    for call in parsed.tool_calls:
        assert isinstance(json.loads(call.arguments), dict) and call.name


@pytest.mark.parametrize("name", RENDER)
def test_any_cut_gives_the_same(name: str) -> None:
    @SPLITS
    @given(text=texts(name), inside=st.booleans(), cuts=st.lists(st.integers(0, 300), max_size=5).map(sorted))
    def check(text: str, inside: bool, cuts: list[int]) -> None:
        whole, has_calls = run(name, [text], in_reasoning=inside)
        chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for cut in (chunks, list(text)):
            events, also = run(name, cut, in_reasoning=inside)
            assert (joined(events), also) == (joined(whole), has_calls)
        check_calls(whole, collect(whole), has_calls)
        held, _ = run(name, chunks, in_reasoning=inside, stream_arguments=False)
        assert not any(isinstance(event, ToolCallFailed) for event in held)
        without_ids = [(call.name, call.arguments) for call in collect(held).tool_calls]
        assert without_ids == [(call.name, call.arguments) for call in collect(whole).tool_calls]

    check()


def letters(text: str) -> str:
    """The text without white space, which parsers may drop around structure."""
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("name", RENDER)
def test_no_word_is_lost(name: str) -> None:
    """Every word between pieces of markup comes out: in the answer, the reasoning, or a call."""

    @CHECKS
    @given(parts=st.lists(st.sampled_from([*(p for p in pieces(name) if p.strip()), " ", "\n"]), max_size=8))
    def check(parts: list[str]) -> None:
        words = [f"w{index}w" for index in range(len(parts))]
        text = "".join(part + word for part, word in zip(parts, words, strict=True))
        events, has_calls = run(name, [text])
        parsed = collect(events)
        out = "".join(
            [parsed.reasoning or "", parsed.content, *(c.id + c.name + c.arguments for c in parsed.tool_calls)]
        )
        lost = [word for word in words if word not in out]
        assert not lost or name in ALLOWED, (text, parsed)
        if not has_calls and not any(mark in text for mark in structure(name)):
            assert letters(parsed.content) == letters(text)

    check()


ALLOWED = CHANNELS | {"minicpm5"}


def structure(name: str) -> tuple[str, ...]:
    """What is dropped although there is no call: markers of reasoning and of messages."""
    picked = choice(name)
    assert picked.tools is not None and picked.reasoning is not None
    headers = ("<|start|>", "<|message|>", "<|end|>", "<|call|>", "<|eom|>", "<|channel|>") if name in CHANNELS else ()
    return (*picked.reasoning.pairs[0], *picked.tools.ignored, *headers)


@CHECKS
@given(text=st.text(), cuts=st.lists(st.integers(0, 40), max_size=4).map(sorted))
def test_plain_text_stays_as_it_is(text: str, cuts: list[int]) -> None:
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for name in ("json_tools", "mistral", "gemma4", "kimi_k2", "harmony"):
        if any(mark in text for mark in pieces(name)):
            continue
        events, _ = run(name, chunks)
        assert collect(events) == Parsed(None, text)


def test_partial_markers_at_the_end_are_text() -> None:
    for name in RENDER:
        for piece in pieces(name):
            for cut in range(1, min(len(piece), 14)):
                text = "a " + piece[:cut]
                if not any(mark in text for mark in (*structure(name), *choice(name).tools.all_starts)):  # type: ignore[union-attr]
                    events, _ = run(name, [text])
                    assert collect(events) == Parsed(None, text), name
