"""One call and no more, and calls that a limit cuts: what a client gets, streamed and not, in all three APIs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import pytest

from mlx_lm.server import sampling
from mlx_lm.tokenizer.parsers import FORMATS, ParserChoice, StreamParser, collect

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ASK = [{"role": "user", "content": "the quick brown fox"}]
Reply = tuple[str, list[Any], str]  # content, arguments of the calls, why it ended


def _whole(parts: dict[int, str]) -> list[Any]:
    """The arguments that a stream completed."""
    found = []
    for text in parts.values():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


@pytest.fixture
def says(server: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """`says(text)`: the model of the server writes `text` in every answer from now on; gives its number of tokens."""

    def script(text: str) -> int:
        tokenizer = server.service.residency.engines[0].tokenizer
        ids = [*tokenizer.encode(text, add_special_tokens=False), *tokenizer.eos_token_ids]

        def sampler(spec: Any, defaults: Any, tokenizer: Any) -> Any:
            coming: Iterator[int] = iter(ids)
            return lambda logprobs: mx.array([next(coming, ids[-1])])

        monkeypatch.setattr(sampling, "sampler", sampler)
        return len(ids) - 1

    return script


def _chat(server: Any, stream: bool, **options: Any) -> Reply:
    tools = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
    body = {"messages": ASK, "tools": tools, "stream": stream, "max_tokens": 200, **options}
    reply = server.post("/v1/chat/completions", body)
    assert reply.status_code == 200, reply.text[:300]
    if not stream:
        choice = reply.json()["choices"][0]
        calls = [json.loads(c["function"]["arguments"]) for c in choice["message"].get("tool_calls", ())]
        return choice["message"]["content"] or "", calls, choice["finish_reason"]
    content, parts, reason = "", {}, ""
    for line in reply.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                content += choice["delta"].get("content") or ""
                reason = choice["finish_reason"] or reason
                for call in choice["delta"].get("tool_calls", ()):
                    parts[call["index"]] = parts.get(call["index"], "") + call["function"].get("arguments", "")
    return content, _whole(parts), reason


def _messages(server: Any, stream: bool, **options: Any) -> Reply:
    tools = [{"name": "add", "input_schema": SCHEMA}]
    body = {"model": "x", "messages": ASK, "tools": tools, "stream": stream, "max_tokens": 200, **options}
    reply = server.post("/v1/messages", {**body, "model": "default_model"})
    assert reply.status_code == 200, reply.text[:300]
    if not stream:
        found = reply.json()
        content = "".join(block["text"] for block in found["content"] if block["type"] == "text")
        return content, [b["input"] for b in found["content"] if b["type"] == "tool_use"], found["stop_reason"]
    content, parts, reason = "", {}, ""
    for line in reply.text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            delta = event.get("delta", {})
            content += delta.get("text", "")
            reason = delta.get("stop_reason") or reason
            if delta.get("type") == "input_json_delta":
                parts[event["index"]] = parts.get(event["index"], "") + delta["partial_json"]
    return content, _whole(parts), reason


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("between", ["\n", "", " and now "])
def test_one_call_and_no_second(server: Any, says: Any, stream: bool, between: str) -> None:
    says(f"Well. {CALL}{between}{CALL}")
    assert _chat(server, stream)[1:] == ([{"a": 1}, {"a": 1}], "tool_calls")
    assert _messages(server, stream)[1:] == ([{"a": 1}, {"a": 1}], "tool_use")
    one = _chat(server, stream, parallel_tool_calls=False)
    assert (one[0].strip(), *one[1:]) == ("Well.", [{"a": 1}], "tool_calls")
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    found = _messages(server, stream, tool_choice=choice)
    assert (found[0].strip(), *found[1:]) == ("Well.", [{"a": 1}], "tool_use")


def test_one_call_of_responses(server: Any, says: Any) -> None:
    says(CALL + CALL)
    body = {"input": "go", "tools": [{"type": "function", "name": "add", "parameters": SCHEMA}]}
    output = server.post("/v1/responses", {**body, "parallel_tool_calls": False}).json()["output"]
    assert [item["type"] for item in output] == ["function_call"]


def test_an_answer_without_a_call_stays_whole(server: Any, says: Any) -> None:
    says("No call, <b>just</b> text.")
    assert _chat(server, False, parallel_tool_calls=False) == ("No call, <b>just</b> text.", [], "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_inside_a_tag(server: Any, says: Any, stream: bool) -> None:
    """Wherever the limit falls behind a complete call, no piece of a tag is content."""
    whole, first = says(CALL + CALL), says(CALL[: CALL.index("\n</tool")])
    says(CALL + CALL)
    for limit in range(first, whole + 1, 3 if stream else 2):
        content, calls, reason = _chat(server, stream, max_tokens=limit)
        begun = '"arguments"' in content  # a second call with half of its arguments is visible text
        assert calls[0] == {"a": 1} and (not content.strip() or begun), (limit, content)
        assert reason == ("tool_calls" if len(calls) == 2 and limit == whole + 1 else "length")
        content, calls, reason = _messages(server, stream, max_tokens=limit)
        assert calls[0] == {"a": 1} and (not content.strip() or '"arguments"' in content), (limit, content)


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_inside_a_forced_call(server: Any, stream: bool) -> None:
    """A call that has to come leaves no tags in the content, and is complete once its arguments are."""
    whole = 0
    for limit in range(1, 60, 4):
        content, calls, reason = _chat(server, stream, max_tokens=limit, tool_choice="required", temperature=1, seed=3)
        assert "</tool" not in content and not (content and '"arguments"' not in content), (limit, content)
        assert reason == ("tool_calls" if calls else "length")
        whole += bool(calls)
        choice = {"type": "any"}
        content, calls, reason = _messages(server, stream, max_tokens=limit, tool_choice=choice)
        assert "</tool" not in content and not (content and '"arguments"' not in content), (limit, content)
        assert reason == ("tool_use" if calls else "max_tokens")
    assert whole


PLAIN = ParserChoice(None, FORMATS["json_tools"])
CUT = [
    ("json_tools", CALL, "</tool_call>"),
    ("qwen3_coder", "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", "/f"),
    ("glm47", "<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>", "/tool_"),
    ("minimax_m2", '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n'
     "</minimax:tool_call>", "/inv"),
    ("gemma4", "<|tool_call>call:add{a:1}<tool_call|>", "<tool_call|>"),
    ("pythonic", "<|tool_call_start|>[add(a=1)]<|tool_call_end|>", "]"),
    ("kimi_k2", '<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 1}'
     "<|tool_call_end|><|tool_calls_section_end|>", "<|tool_call_end"),
    ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]', "[TOOL_CALLS]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "after"), CUT, ids=[one[0] for one in CUT])
def test_every_cut_of_a_call(name: str, text: str, after: str) -> None:
    """Cut anywhere behind the arguments, even inside closing tags: one call and nothing else."""
    complete = text.rindex(after) + 1
    for cut in range(len(text) + 1):
        events = []
        parser = StreamParser(ParserChoice(None, FORMATS[name]), forced=True)
        for character in text[:cut]:
            events += parser.feed(character)
        found = collect([*events, *parser.finish(cut=True)])
        if cut > complete:
            assert [call.name for call in found.tool_calls] == ["add"] and not found.content, text[:cut]
        elif not found.tool_calls:  # a call that had begun is visible
            assert text[:cut].startswith(found.content) and (not found.content or "add" in found.content), text[:cut]


def test_text_that_is_no_marker_stays() -> None:
    """Without a call, and where the model ends by itself, what looks like the beginning of a marker is text."""
    for cut in (False, True):
        parser = StreamParser(PLAIN)
        assert collect([*parser.feed("1 <"), *parser.finish(cut=cut)]).content == "1 <"
    parser = StreamParser(PLAIN)
    assert collect([*parser.feed(CALL + " a <tool"), *parser.finish()]).content == "a <tool"
