"""Answers that must have a form, and calls that must be made: enforced for real, whatever the model prefers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from random_calls import accepts

from mlx_lm.errors import UnsupportedError
from mlx_lm.server.calls import call_grammar
from mlx_lm.server.plain_tools import with_plain_tools
from mlx_lm.server.work import OutputFormat, Tool, ToolChoice, Work
from mlx_lm.tokenizer import load_tokenizer
from mlx_lm.tokenizer.parsers import FORMATS, STYLES, ParserChoice, parse_complete

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = Tool("get_weather", "The weather", SCHEMA, strict=True)
ADD = Tool("add", "Adds", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
ASK = [{"role": "user", "content": "the quick brown fox"}]

# What each model writes to call get_weather, and with arguments that are not the tool's.
CALLS = {
    "json_tools": '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>',
    "llama3": '{"name": "get_weather", "parameters": %s}',
    "granite": '<|tool_call|>[{"name": "get_weather", "arguments": %s}]',
    "phi4_mini": 'functools[{"name": "get_weather", "arguments": %s}]',
    "nemotron": '<TOOLCALL>[{"name": "get_weather", "arguments": %s}]</TOOLCALL>',
    "mistral": '[TOOL_CALLS][{"name": "get_weather", "arguments": %s}]',
    "command_r": '<|START_ACTION|>[{"tool_name": "get_weather", "parameters": %s}]<|END_ACTION|>',
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>%s<｜tool▁call▁end｜>"  # noqa: RUF001
    "<｜tool▁calls▁end｜>",  # noqa: RUF001
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>%s"
    "<|tool_call_end|><|tool_calls_section_end|>",
}
GOOD, BAD = '{"city": "Oslo", "days": 2}', '{"city": "Oslo", "days": 9}'


def _work(mode: Any, name: str | None = None, parallel: bool = True) -> Work:
    return Work(messages=(), tools=(WEATHER, ADD), tool_choice=ToolChoice(mode, name, parallel))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Any) -> Any:
    return load_tokenizer(tiny_model())


@pytest.mark.parametrize("name", sorted(CALLS))
def test_forms_of_calls(tokenizer: Any, name: str) -> None:
    """What the grammar allows is what the parser of the same format reads."""
    good, bad = CALLS[name] % GOOD, CALLS[name] % BAD
    parsed = parse_complete(good, ParserChoice(tools=FORMATS[name]), tools=[WEATHER.as_function()])
    assert [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls] == [
        ("get_weather", json.loads(GOOD))
    ]
    required = call_grammar(_work("required"), tokenizer, FORMATS[name])
    assert accepts(required, good, tokenizer) == (True, True)
    assert accepts(required, bad, tokenizer) == (False, False)
    assert accepts(required, "I would rather", tokenizer) == (False, False)
    other = call_grammar(_work("named", "add"), tokenizer, FORMATS[name])
    assert accepts(other, good, tokenizer) == (False, False)
    free = call_grammar(_work("auto"), tokenizer, FORMATS[name])
    if name == "llama3":  # what begins with a brace is a call
        assert accepts(free, "I would rather {not}.", tokenizer) == accepts(free, good, tokenizer) == (True, True)
        assert accepts(free, bad, tokenizer) == (False, False)
        return
    for text in ("", "I would rather not. 1 < 2", "Well:\n" + good, good):
        assert accepts(free, text, tokenizer) == (True, True), text
    assert accepts(free, "Well:\n" + bad, tokenizer) == (False, False)


def test_several_calls_or_one(tokenizer: Any) -> None:
    one = CALLS["json_tools"] % GOOD
    both = one + '\n<tool_call>\n{"name": "add", "arguments": {"a": 5}}\n</tool_call>'
    several = call_grammar(_work("auto"), tokenizer, FORMATS["json_tools"])
    assert accepts(several, both, tokenizer) == (True, True)
    for work in (_work("auto", parallel=False), _work("required")):
        single = call_grammar(work, tokenizer, FORMATS["json_tools"])
        assert accepts(single, both, tokenizer) == (False, False) and accepts(single, one, tokenizer)[1]


def test_an_answer_in_a_form_or_a_call(tokenizer: Any) -> None:
    """With tools and an output format the model may call or answer in the form, and nothing else."""
    form = OutputFormat("json_schema", {"type": "object", "properties": {"x": {"type": "integer"}}})
    grammar = call_grammar(replace(_work("auto"), output=form), tokenizer, FORMATS["json_tools"])
    assert accepts(grammar, '{"x": 5}', tokenizer) == (True, True)
    assert accepts(grammar, CALLS["json_tools"] % GOOD, tokenizer) == (True, True)
    assert accepts(grammar, "Hello", tokenizer) == (False, False)


def test_a_model_without_a_format_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedError, match="'none'"):
        call_grammar(_work("required"), tokenizer, None)


def test_names_of_tools_are_only_text(tokenizer: Any) -> None:
    name = 'x"} | %json {} <[5]> /.*/ \n start: "a'
    work = Work(messages=(), tools=(Tool(name),), tool_choice=ToolChoice("required"))
    grammar = call_grammar(work, tokenizer, FORMATS["json_tools"])
    call = f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {{}}}}\n</tool_call>'
    assert accepts(grammar, call, tokenizer) == (True, True)
    assert accepts(grammar, "a", tokenizer) == (False, False)


def test_tools_for_templates_that_know_none() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Add"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "1"},
    ]
    plain = with_plain_tools(messages, (ADD,))
    assert [m["role"] for m in plain] == ["system", "user", "assistant", "user"]
    assert plain[0]["content"].startswith("Be brief.\n\n") and '"name": "add"' in plain[0]["content"]
    assert plain[2]["content"] == '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert plain[3]["content"] == "<tool_response>\n1\n</tool_response>"
    assert all(isinstance(m["content"], str) and "tool_calls" not in m for m in plain)


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_made(server: Any, stream: bool) -> None:
    """Random weights would never call: the grammar makes them."""
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA, "strict": True}}]
    body = {"messages": ASK, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "temperature": 1}
    reply = server.post("/v1/chat/completions", {**body, "seed": 3, "stream": stream, "max_tokens": 300})
    assert reply.status_code == 200, reply.text[:300]
    if stream:
        chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        deltas = [c["choices"][0]["delta"].get("tool_calls") for c in chunks if c["choices"]]
        pieces = [d[0]["function"].get("arguments", "") for d in deltas if d]
        assert len(pieces) > 2
        arguments, reason = "".join(pieces), chunks[-1]["choices"][0]["finish_reason"]
    else:
        choice = reply.json()["choices"][0]
        arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
        reason = choice["finish_reason"]
    assert reason == "tool_calls"
    found = json.loads(arguments)
    assert set(found) == {"city", "days"} and found["days"] in (1, 2, 3) and len(found["city"]) <= 12


@pytest.mark.parametrize("seed", range(4))
def test_answers_keep_to_their_schema(server: Any, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    body = {"messages": ASK, "response_format": form, "max_tokens": 300, "temperature": 1, "seed": seed}
    choice = server.post("/v1/chat/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"])["days"] in (1, 2, 3)


def test_anthropic_tools_are_forced_too(server: Any) -> None:
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    body = {"model": "default_model", "messages": ASK, "tools": tools, "max_tokens": 300, "temperature": 1}
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    reply = server.post("/v1/messages", {**body, "tool_choice": choice}).json()
    assert reply["stop_reason"] == "tool_use"
    assert reply["content"][-1]["input"]["days"] in (1, 2, 3)


def test_a_schema_that_cannot_be_enforced_is_refused(server: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}, "strict": True}}
    reply = server.post("/v1/chat/completions", {"messages": ASK, "response_format": form, "max_tokens": 9})
    assert reply.status_code == 400 and "nonsense" in reply.text


@pytest.mark.real_model("qwen2.5-coder-1.5b")
def test_markers_that_are_tokens() -> None:
    """Qwen's `<tool_call>` is one token, which its tokenizer does not call special and the grammar does."""
    from mlx_lm.hub import resolve
    from mlx_lm.models.load import load_files_tokenizer

    tokenizer = load_files_tokenizer(resolve("qwen2.5-coder-1.5b", allow_download=False), {})
    form = tokenizer.parsers.tools
    text = CALLS["json_tools"] % GOOD
    assert len(tokenizer.encode("<tool_call>", add_special_tokens=False)) == 1
    for mode in ("required", "auto"):
        grammar = call_grammar(_work(mode), tokenizer, form)
        assert accepts(grammar, text, tokenizer) == (True, True)
        assert accepts(grammar, CALLS["json_tools"] % BAD, tokenizer) == (False, False)
    assert accepts(grammar, "I can't. " + text, tokenizer) == (True, True)
    assert accepts(grammar, "I can't.", tokenizer) == (True, True)


@pytest.mark.parametrize("name", ["qwen3_coder", "gemma4", "pythonic", "glm47", "harmony"])
def test_calls_of_other_formats_are_made(
    serve: Any, tiny_model: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP: a model that says it writes this format is held to it."""
    from mlx_lm.tokenizer import TokenizerWrapper

    monkeypatch.setattr(TokenizerWrapper, "parsers", property(lambda self: ParserChoice(None, FORMATS[name])))
    schema = {**SCHEMA, "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2, 3]}}}
    monkeypatch.setattr("mlx_lm.server.prompt.knows_tools", lambda template: True)
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema, "strict": True}}]
    body = {"messages": ASK, "tools": tools, "tool_choice": "required", "max_tokens": 400, "temperature": 1, "seed": 5}
    with serve(model_id=tiny_model()) as server:
        reply = server.post("/v1/chat/completions", {**body, "logit_bias": {}, "stop": None})
    assert reply.status_code == 200, reply.text[:300]
    choice = reply.json()["choices"][0]
    if name != "harmony" or choice["finish_reason"] == "tool_calls":  # random reasoning may last
        found = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
        assert set(found) == {"city", "days"} and found["days"] in (1, 2, 3)


def test_a_bare_object_is_an_answer_where_calls_are_enforced(tokenizer: Any) -> None:
    """Strict calls have their markers; JSON in an answer is not taken for one."""
    from mlx_lm.server.prompt import ChatStyle, prepare

    style = ChatStyle(tokenizer, 4096, 320)
    work = replace(_work("auto"), messages=tuple(ASK))
    tools = [tool.as_function() for tool in work.tools]
    for one, count in ((work, 0), (replace(work, tools=(replace(WEATHER, strict=False),)), 1)):
        parsers = prepare(one, style).parsers
        assert parsers is not None
        assert len(parse_complete(CALLS["json_tools"][12:-13] % GOOD, parsers, tools=tools).tool_calls) == count


def test_no_call_inside_reasoning_where_calls_are_enforced(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model writes while it thinks is free, so it cannot be a strict call."""
    from mlx_lm.server.prompt import ChatStyle, prepare
    from mlx_lm.tokenizer import TokenizerWrapper

    choice = ParserChoice(STYLES["think"], FORMATS["deepseek_v3"])
    monkeypatch.setattr(TokenizerWrapper, "parsers", property(lambda self: choice))
    monkeypatch.setattr("mlx_lm.server.prompt.knows_tools", lambda template: True)
    style = ChatStyle(tokenizer, 4096, 320)
    work = replace(_work("auto"), messages=tuple(ASK))
    text = f"<think>{CALLS['deepseek_v3'] % BAD}</think>Well."
    for one, count in ((work, 0), (replace(work, tools=(replace(WEATHER, strict=False),)), 1)):
        parsers = prepare(one, style).parsers
        assert parsers is not None
        parsed = parse_complete(text, parsers, tools=[WEATHER.as_function()])
        assert len(parsed.tool_calls) == count
