"""Every format: one call, several, text around, all kinds of values; and texts that are no calls."""

# ruff: noqa: RUF001

import json
from typing import Any

import pytest
from parser_transcripts import BARE, BROKEN, CHANNELS, RENDER, TOOLS, Broken, Call, choice

from mlx_lm.tokenizer.parsers import (
    FORMATS,
    STYLES,
    Parsed,
    ParserChoice,
    StreamParser,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallReader,
    ToolCallStart,
    collect,
    parse_complete,
)

WEATHER: Call = ("get_weather", {"city": "Paris", "days": 3})
VALUES: dict[str, dict[str, Any]] = {
    "empty": {},
    "types": {"city": "7", "days": 7, "exact": True, "scale": 0.5, "zip": "007"},
    "nested": {"options": {"a": [1, {"b": "c"}, [True, None]]}, "tags": ["x", "y"]},
    "hollow": {"options": {"d": {}, "e": []}},
    "unicode": {"city": "Zürich 東京 🦊", "options": {"é": "ü"}},
    "quotes": {"city": "say \"hi\" and 'ho' \\ back"},
    "lines": {"city": "a\nb\n\nc\td"},
    "markup": {"city": "<b>1 < 2 && {x}</b> [y], z:1"},
    "words": {"city": "true", "unit": "null and void", "zip": "None"},
    "edges": {"city": " padded ", "zip": ""},
}


def parse(name: str, text: str, **options: Any) -> Parsed:
    options.setdefault("new_id", lambda name, index: f"id-{index}")
    return parse_complete(text, choice(name), tools=TOOLS, **options)


def calls_of(parsed: Parsed) -> list[Call]:
    return [(call.name, json.loads(call.arguments)) for call in parsed.tool_calls]


def test_every_format_has_a_renderer() -> None:
    assert set(RENDER) == set(FORMATS)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", RENDER)
def test_values(name: str, values: str) -> None:
    if (name, values) == ("minimax_m3", "hollow"):
        return  # nested tags with nothing in them can't be told from an empty string
    call = ("get_weather", VALUES[values])
    parsed = parse(name, RENDER[name]([call]))
    assert (calls_of(parsed), parsed.content) == ([call], "")


@pytest.mark.parametrize("name", RENDER)
def test_parallel_calls_have_their_own_ids(name: str) -> None:
    calls = [WEATHER, ("now", {}), WEATHER]
    parsed = parse(name, RENDER[name](calls))
    assert (calls_of(parsed), parsed.content) == (calls, "")
    assert len({call.id for call in parsed.tool_calls}) == 3


@pytest.mark.parametrize("name", sorted(set(RENDER) - BARE - CHANNELS))
def test_text_and_reasoning_around_calls(name: str) -> None:
    style = choice(name).reasoning
    assert style is not None
    text = f"{style.start}\nI think.\n{style.end}\n\nLet me look.\n\n{RENDER[name]([WEATHER])}\n"
    assert parse(name, text) == Parsed("I think.", "Let me look.", parse(name, text).tool_calls)
    assert calls_of(parse(name, text)) == [WEATHER]
    after = parse(name, text + "That was it.")
    assert (after.content, calls_of(after)) == ("Let me look.\n\n\nThat was it.", [WEATHER])


@pytest.mark.parametrize("name", sorted(BARE))
def test_bare_calls_stand_where_the_answer_begins(name: str) -> None:
    call = RENDER[name]([WEATHER])
    assert calls_of(parse(name, f"<think>hm</think>\n\n{call}")) == [WEATHER]
    assert parse(name, f"For example {call}") == Parsed(None, f"For example {call}")
    assert parse(name, call.replace("get_weather", "stranger")).tool_calls == ()


def test_json_without_markers() -> None:
    """Qwen 2.5 Coder leaves them out: an offered tool with arguments, where the answer begins, is a call."""
    call = '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}'
    for text in (call, f"[{call}]", f"```json\n{call}\n```", f"<tools>\n{call}\n</tools>", f"<think>x</think>\n{call}"):
        parsed = parse("json_tools", text)
        assert (calls_of(parsed), parsed.content) == ([WEATHER], ""), text
    others = (
        '{"name": "stranger", "arguments": {}}',
        '{"name": "now"}',
        '```json\n{"a": 1}\n```',
        "[1, 2]",
        f"So: {call}",
    )
    for text in others:
        assert parse("json_tools", text) == Parsed(None, text)
    assert parse_complete(call, choice("json_tools")) == Parsed(None, call)
    parser = StreamParser(choice("json_tools"), tools=TOOLS)
    assert parser.feed('{"answer":') == [TextDelta('{"answer":')]


def test_harmony() -> None:
    text = (
        "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": "P"}'
    )
    parsed = parse("harmony", text)
    assert (parsed.reasoning, parsed.content) == ("Think.", "I look.")
    assert calls_of(parsed) == [("get_weather", {"city": "P"})]
    final = parse(
        "harmony", "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>"
    )
    assert final == Parsed("T", "A")
    assert parse("harmony", "no header at all") == Parsed(None, "no header at all")
    assert parse("harmony", "<|channel|>final<|message|>a < b") == Parsed(None, "a < b")
    assert parse(
        "harmony", "still thinking<|end|><|start|>assistant<|channel|>final<|message|>A", in_reasoning=True
    ) == (Parsed("still thinking", "A"))


def test_muse() -> None:
    text = f" to=self<|message|>Think.<|eom|><|start|>assistant{RENDER['muse_spark']([WEATHER])}"
    parsed = parse("muse_spark", text + "<|start|>assistant to=user<|message|>Done.<|eot|>")
    assert (parsed.reasoning, parsed.content, calls_of(parsed)) == ("Think.", "Done.", [WEATHER])


def test_kimi_k3_channels() -> None:
    text = (
        "Think.<|close|>think<|sep|><|open|>response<|sep|>Hello.<|close|>response<|sep|>"
        '<|open|>tools<|sep|><|open|>call tool="now" index="1"<|sep|><|open|>json type="object"<|sep|>{"a": [1]}'
        "<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|><|end_of_msg|>"
    )
    parsed = parse("kimi_k3", text, in_reasoning=True)
    assert (parsed.reasoning, parsed.content, calls_of(parsed)) == ("Think.", "Hello.", [("now", {"a": [1]})])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("json_tools", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [("f", {"a": 1})]),
        ("json_tools", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', [("f", {"a": 1})]),
        ("json_tools", '<tool_call>{"name": "f", "arguments": null}</tool_call>', [("f", {})]),
        ("json_tools", '<tool_call>{"name": "f"}</tool_call>', [("f", {})]),
        ("json_tools", '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {}}}', [("f", {})]),
        ("json_tools", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', [("f", {"a": 1})]),
        ("json_tools", '<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call>', [("f", {"a": 1})]),
        (
            "json_tools",
            '<tool_call>{"name": "f", "arguments": {"a": True, "b": "\\d\n"}}',
            [("f", {"a": True, "b": "\\d\n"})],
        ),
        ("json_tools", '<tool_call>\n{"name": "f"}\n{"name": "g"}\n</tool_call>', [("f", {}), ("g", {})]),
        ("json_tools", "<tool_call>\n<function=now>\n</function>\n</tool_call>", [("now", {})]),
        ("qwen3_coder", '<tool_call>{"name": "f", "arguments": {}}</tool_call>', [("f", {})]),
        (
            "qwen3_coder",
            "<tool_call><function=x><parameter=a>[1, 2]</parameter></function></tool_call>",
            [("x", {"a": [1, 2]})],
        ),
        (
            "qwen3_coder",
            "<tool_call><function=get_weather><parameter=options>{'a': None}</parameter></function></tool_call>",
            [("get_weather", {"options": {"a": None}})],
        ),
        (
            "qwen3_coder",
            "<tool_call><function=get_weather><parameter=unit>null</parameter></function></tool_call>",
            [("get_weather", {"unit": None})],
        ),
        (
            "qwen3_coder",
            "<tool_call><function=get_weather><parameter=days>many</parameter></function></tool_call>",
            [("get_weather", {"days": "many"})],
        ),
        ("glm47", "<tool_call>now</tool_call>", [("now", {})]),
        ("longcat", '<longcat_tool_call>\n{"name": "f", "arguments": {}}\n</longcat_tool_call>', [("f", {})]),
        ("minicpm5", "<function name='f'><param name='a'>1 &lt; 2</param></function>", [("f", {"a": "1 < 2"})]),
        (
            "deepseek_v32",
            '<｜DSML｜tool_calls><｜DSML｜invoke name="f"></｜DSML｜invoke></｜DSML｜tool_calls>',
            [("f", {})],
        ),
        (
            "deepseek_v3",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [("f", {})],
        ),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]', [("f", {"a": 1})]),
        ("mistral", '[TOOL_CALLS]f{"a": 1}', [("f", {"a": 1})]),
        ("kimi_k2", "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{}", [("f", {})]),
        ("pythonic", '<|tool_call_start|>[{"name": "f", "arguments": {}}]<|tool_call_end|>', [("f", {})]),
        (
            "pythonic",
            "<|tool_call_start|>[get_weather('it's', 2)]<|tool_call_end|>",
            [("get_weather", {"city": "it's", "days": 2})],
        ),
        (
            "pythonic",
            "<|tool_call_start|>[f(a=(1, 2,), b=-.5, c=0x10, d='\\u00e9')]",
            [("f", {"a": [1, 2], "b": -0.5, "c": 16, "d": "é"})],
        ),
        ("gemma4", '<|tool_call>call:f{a:word,<|"|>b<|"|>:[]}<tool_call|>', [("f", {"a": "word", "b": []})]),
        ("granite", '<function_call> {"name": "f", "arguments": {}}', [("f", {})]),
        ("phi4_mini", '<|tool_call|>[{"name": "f", "arguments": {}}]<|/tool_call|>', [("f", {})]),
        ("command_r", 'Action: ```json\n[\n{"tool_name": "f", "parameters": {}}\n]```', [("f", {})]),
        ("llama3", '<|python_tag|>{"name": "f", "parameters": {}}', [("f", {})]),
        ("llama3", '<|python_tag|>brave_search.call(query="x y")', [("brave_search", {"query": "x y"})]),
        ("llama_pythonic", "<|python_start|>[f(a=1)]<|python_end|>", [("f", {"a": 1})]),
    ],
)
def test_variants(name: str, text: str, expected: list[Call]) -> None:
    parsed = parse(name, text)
    assert (calls_of(parsed), parsed.content) == (expected, "")


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.format}-{case.text[:20]!r}")
def test_a_broken_call_is_text(case: Broken) -> None:
    for stream in (True, False):
        parser = StreamParser(choice(case.format), tools=TOOLS, stream_arguments=stream)
        events = [*parser.feed(case.text), *parser.finish()]
        assert collect(events) == Parsed(None, case.text), events
        assert not parser.has_calls
        if not stream:
            assert {type(event) for event in events} == {TextDelta}


def test_a_broken_call_does_not_harm_its_neighbours() -> None:
    good = RENDER["json_tools"]([WEATHER])
    text = f'a <tool_call>{{"name": "f", "arguments": {{"x": oops}}}}</tool_call> b\n{good}'
    parser = StreamParser(choice("json_tools"), tools=TOOLS)
    events = [*parser.feed(text), *parser.finish()]
    assert ToolCallFailed(0, ' <tool_call>{"name": "f", "arguments": {"x":') in events
    parsed = collect(events)
    assert calls_of(parsed) == [WEATHER] and parser.has_calls
    assert parsed.content == 'a <tool_call>{"name": "f", "arguments": {"x": oops}}</tool_call> b'


def test_text_of_a_broken_call_makes_no_call() -> None:
    inner = '<tool_call>{"name": "now", "arguments": {}}'
    text = f'<tool_call>{{"name": "get_weather", "arguments": {{"city": oops "{inner}"}}}}</tool_call>'
    assert parse("json_tools", text) == Parsed(None, text)


def test_arguments_stream() -> None:
    parser = StreamParser(choice("json_tools"), tools=TOOLS, new_id=lambda name, index: f"{name}-{index}")
    assert parser.feed('<tool_call>{"name": "get_weather", "arg') == []
    assert parser.feed('uments": {"city": "Par') == [
        ToolCallStart(0, "get_weather-0", "get_weather"),
        ToolCallArguments(0, '{"city": "Par'),
    ]
    assert parser.feed("is, France") == [ToolCallArguments(0, "is, France")]
    assert parser.feed('"}}\n</tool_call>') == [ToolCallArguments(0, '"}'), ToolCallEnd(0)]
    assert parser.finish() == []


def test_tagged_strings_stream() -> None:
    parser = StreamParser(choice("qwen3_coder"), tools=TOOLS, new_id=lambda name, index: "x")
    parser.feed("<tool_call>\n<function=get_weather>\n<parameter=city>\n")
    assert parser.feed('say "a\nb') == [ToolCallArguments(0, 'say \\"a\\nb')]
    assert parser.feed("\n</param") == []
    assert parser.feed("eter>\n<parameter=days>\n1") == [ToolCallArguments(0, '", "days": ')]
    assert parser.feed("2\n</parameter>\n</function>") == [ToolCallArguments(0, "12}"), ToolCallEnd(0)]


def test_calls_can_be_held_until_they_are_complete() -> None:
    parser = StreamParser(choice("json_tools"), stream_arguments=False, new_id=lambda name, index: "x")
    assert parser.feed('<tool_call>{"name": "f", "arguments": {"a": 1') == []
    assert parser.feed("}}") == [ToolCallStart(0, "x", "f"), ToolCallArguments(0, '{"a": 1}'), ToolCallEnd(0)]


def test_ids_follow_the_templates() -> None:
    kimi = parse("kimi_k2", RENDER["kimi_k2"]([WEATHER, ("now", {})]))
    assert [call.id for call in kimi.tool_calls] == ["functions.get_weather:0", "functions.now:1"]
    mistral = parse("mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}[TOOL_CALLS]now[ARGS]{}", new_id=None)
    assert mistral.tool_calls[0].id == "abcdefghi"
    assert len(mistral.tool_calls[1].id) == 9 and mistral.tool_calls[1].id.isalnum()


def test_reader_of_one_call() -> None:
    read = ToolCallReader(FORMATS["json_tools"])
    assert (read.tool_call_start, read.tool_call_end) == ("<tool_call>", "</tool_call>")
    assert read('\n{"name": "f", "arguments": {"a": 1}}\n') == {"name": "f", "arguments": {"a": 1}}
    assert read('[{"name": "f"}, {"name": "g"}]') == [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]
    with pytest.raises(ValueError, match="json_tools"):
        read("oops")


def test_without_formats_all_is_text() -> None:
    text = '<think>a</think> <tool_call>{"name": "f"}</tool_call> <'
    assert parse_complete(text, ParserChoice()) == Parsed(None, text)


def test_every_style_goes_with_every_format() -> None:
    for style in STYLES.values():
        for tools in FORMATS.values():
            parser = StreamParser(ParserChoice(style, tools), in_reasoning=True)
            assert collect([*parser.feed("a"), *parser.finish()]).reasoning == "a"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json_tools", '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 5000),
        ("json_tools", "<tool_call>" + '{"function": ' * 5000),
        ("json_tools", '<tool_call>{"name": "f", "arguments": {"a": ' + "1" * 50_000),
        ("json_tools", "<tool_call>" * 5000),
        ("json_tools", "<" * 50_000),
        ("glm47", "<tool_call>f<arg_key>a</arg_key><arg_value>" + "[" * 50_000 + "</arg_value></tool_call>"),
        ("pythonic", "<|tool_call_start|>[f(a=" + "(" * 5000),
        ("pythonic", "<|tool_call_start|>[f(a='" + "' " * 20_000),
        ("gemma4", "<|tool_call>call:f{a:" + "{b:" * 5000),
        ("minimax_m3", "]<]minimax[>[<tool_call>]<]minimax[>[<invoke name='f'>" + "]<]minimax[>[<a>" * 3000),
        ("mistral", "[TOOL_CALLS]" * 5000),
        ("harmony", "<|start|>assistant<|channel|>" * 2000),
        ("muse_spark", " to=self<|message|>" * 2000),
    ],
    ids=lambda value: value[:24],
)
def test_hostile_text_is_only_text(name: str, text: str) -> None:
    parser = StreamParser(choice(name))
    events = [event for at in range(0, len(text), 100) for event in parser.feed(text[at : at + 100])]
    parsed = collect(events + parser.finish())
    calls = [call for call in parsed.tool_calls if json.loads(call.arguments) != {"a": "[" * 50_000}]
    assert calls == []


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "7", "7"),
        ({"type": "integer"}, "7", 7),
        ({"type": "integer"}, " 7.0 ", 7),
        ({"type": "number"}, "7", 7),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "1", True),
        ({"type": "array"}, "['a', None]", ["a", None]),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "integer"]}, "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
        ({"type": "string", "nullable": True}, "null", None),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"const": 3}, "3", 3),
        ({"$ref": "#/x"}, '{"a": 1}', {"a": 1}),
        ({"$ref": "#/$defs/text"}, "7", "7"),
        ({"anyOf": [{"$ref": "#/$defs/text"}, {"type": "null"}]}, "7", "7"),
        ({"$ref": "#/$defs/loop"}, "7", 7),
        ({}, "7", 7),
        ({}, "seven", "seven"),
        ({}, "", ""),
        ({"type": "object"}, "not one", "not one"),
        ({"type": [{}, None, "integer"]}, "7", 7),
        ({"type": "STRING"}, "7", "7"),
    ],
)
def test_schemas_decide(schema: dict[str, Any], text: str, value: Any) -> None:
    named = {"text": {"enum": ["1", "7"]}, "loop": {"$ref": "#/$defs/loop"}}
    tools = [{"name": "f", "input_schema": {"properties": {"a": schema}, "$defs": named}}]
    call = f"<tool_call>f<arg_key>a</arg_key><arg_value>{text}</arg_value></tool_call>"
    (made,) = parse_complete(call, choice("glm47"), tools=tools).tool_calls
    assert json.loads(made.arguments) == {"a": value}
