"""Every format of calls: what a random model writes under its grammar, its own parser reads, and the schema accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from random_calls import accepts, closers, random_text, texts_of, tokenizer, tool_schema
from tokenizer.parsers.parser_transcripts import RENDER

from mlx_lm.errors import GrammarError, UnsupportedError
from mlx_lm.server.calls import FORMS, REFUSED, call_grammar, marked_only
from mlx_lm.server.work import Tool, ToolChoice, Work
from mlx_lm.tokenizer.parsers import FORMATS, STYLES, ParserChoice, parse_complete
from mlx_lm.tokenizer.parsers.schema import ToolSchemas

STRING, INTEGER, NUMBER, FLAG = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
SCHEMAS: dict[str, dict[str, Any]] = {
    "texts": tool_schema(["a"], a=STRING, b={"type": "string", "maxLength": 9}, c={"type": "string", "minLength": 2}),
    "patterns": tool_schema(
        ["code", "day"],
        code={"type": "string", "pattern": "^[a-z]{2}(-[A-Z]{2})?$"},
        day={"type": "string", "format": "date"},
        part={"type": "string", "pattern": "[0-9]+", "maxLength": 12},
        mail={"type": "string", "format": "email"},
        id={"type": "string", "format": "uuid"},
    ),
    "numbers": tool_schema(
        ["n", "x"], n={"type": "integer", "minimum": 3, "maximum": 40}, x=NUMBER, yes=FLAG, one={"enum": [1, 2.5, None]}
    ),
    "enums": tool_schema(
        ["e"],
        e={"enum": ["it's", 'a "b"', "a<b & c", "7", "true", "", "x\\y", "null"]},
        f={"type": "string", "const": "[1]"},
        g={"enum": ["low", 7, False]},
    ),
    "nested": tool_schema(
        ["list", "thing"],
        list={"type": "array", "items": STRING, "minItems": 1, "maxItems": 3},
        thing={**tool_schema(["s"], s=STRING, ok=FLAG, n={"type": ["integer", "null"]}), "additionalProperties": False},
        pair={"type": "array", "prefixItems": [INTEGER, FLAG], "items": False, "minItems": 1},
        rows={"type": "array", "items": tool_schema(["x"], x=NUMBER), "maxItems": 2},
    ),
    "unions": {
        **tool_schema(
            ["u", "v"],
            u={"type": ["string", "null"]},
            v={"anyOf": [STRING, INTEGER, {"type": "array", "items": INTEGER}]},
            w={"$ref": "#/$defs/Unit"},
            y={"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}]},
            z={"type": ["string", "boolean"], "maxLength": 5},
        ),
        "$defs": {"Unit": {"type": "string", "enum": ["c", "f", "1"]}},
    },
    "any": {**tool_schema(["q"], q={}), "additionalProperties": INTEGER},
    "open": {"type": "object"},
    "none": {"type": "object", "properties": {}},
    "tree": {
        **tool_schema(["t"], t={"$ref": "#/$defs/Node"}),
        "$defs": {"Node": tool_schema(["name"], name={"type": "string", "maxLength": 4},
                                      kids={"type": "array", "items": {"$ref": "#/$defs/Node"}, "maxItems": 2})},
    },
}  # fmt: skip
OTHER = Tool("other-tool", None, tool_schema(["k"], k=STRING), strict=True)


def _work(tool: Tool, mode: Any = "named", **options: Any) -> Work:
    return Work(messages=(), tools=(tool, OTHER), tool_choice=ToolChoice(mode, tool.name, **options))


def _check(name: str, tool: Tool, text: str, count: int | None = 1) -> tuple[str, int]:
    """(the content besides calls, their number); all must be valid."""
    form = FORMATS[name] if not marked_only(FORMATS[name]) else replace(FORMATS[name], bare=None)
    style = STYLES["kimi_k3"] if name == "kimi_k3" else None
    parsed = parse_complete(text, ParserChoice(style, form), tools=[tool.as_function(), OTHER.as_function()])
    assert count in (None, len(parsed.tool_calls)), (text, parsed)
    for call in parsed.tool_calls:
        schema = {tool.name: tool, OTHER.name: OTHER}[call.name].parameters
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        found = json.loads(call.arguments)
        errors = list(jsonschema.Draft202012Validator(schema, format_checker=checker).iter_errors(found))
        assert not errors, (text, call.arguments, errors[0].message)
        if tool.strict and "properties" in schema and "additionalProperties" not in schema:
            assert set(found) <= set(schema["properties"]), (text, found)
    return parsed.content, len(parsed.tool_calls)


def test_every_format_is_enforced_or_refused_with_a_reason() -> None:
    assert set(FORMATS) | {"mistral_list"} == set(FORMS) | set(REFUSED)
    assert not set(FORMS) & set(REFUSED) and all(REFUSED.values())


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marked"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_forced_calls(name: str, marked: bool) -> None:
    tokens, finished = tokenizer(marked), 0
    for number, (title, schema) in enumerate(SCHEMAS.items()):
        tool = Tool("get_it", "Gets it", schema, strict=True)
        grammar = call_grammar(_work(tool), tokens, FORMATS[name])
        for seed in range(2):
            text = random_text(grammar, tokens, np.random.default_rng((number, seed)), closers(name), limit=30)
            if text is not None:
                finished += 1
                content, _ = _check(name, tool, text)
                assert not content or "<|channel|>commentary<|message|>" in text, (title, text)
    assert finished > len(SCHEMAS)


GOOD, BAD = {"city": "Oslo", "days": 2, "exact": True}, {"city": "Oslo", "days": 9, "exact": True}
WEATHER = Tool(
    "get_weather", None, tool_schema(["city", "days"], city=STRING, days={"enum": [1, 2, 3]}, exact=FLAG), strict=True
)
OTHER_LAYOUT = {"deepseek_v3": "V3 writes a fence that V3.1 does not", "command_r": "line breaks in the list",
                "mistral": "lists, for tokenizers without [ARGS]"}  # fmt: skip
BARE = frozenset(name for name, form in FORMS.items() if form.bare)
HEADERS = frozenset(name for name, form in FORMS.items() if form.messages)


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marked"])
@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(OTHER_LAYOUT)))
def test_what_templates_write_is_what_the_grammar_allows(name: str, marked: bool) -> None:
    """The layout of the chat template is in the grammar: models are not led away from what they learned."""
    tokens, form = tokenizer(marked), FORMATS[name]
    end = {"harmony": "<|call|>", "muse_spark": "<|eom|>"}.get(name, "")
    good, bad = (RENDER[name]([("get_weather", one)]).removesuffix(end) for one in (GOOD, BAD))
    for mode in ("required", "auto"):
        grammar = call_grammar(_work(WEATHER, mode), tokens, form)
        assert accepts(grammar, good, tokens) == (True, True), (mode, good)
        assert accepts(grammar, bad, tokens)[1] is False, (mode, bad)
    assert accepts(call_grammar(_work(OTHER), tokens, form), good, tokens)[1] is False


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marked"])
@pytest.mark.parametrize("name", sorted(set(FORMATS) - HEADERS))
def test_free_text_before_strict_calls(name: str, marked: bool) -> None:
    tokens = tokenizer(marked)
    grammar = call_grammar(_work(WEATHER, "auto"), tokens, FORMATS[name])
    for text in ("", "I would rather not: 1 < 2, 'a' > {b}.", "Well:\n<b>x</b>\n"):
        assert accepts(grammar, text, tokens) == (True, True), text
        if name not in BARE and name not in OTHER_LAYOUT:
            call = RENDER[name]([("get_weather", GOOD)])
            assert accepts(grammar, text + call, tokens) == (True, True), text
            wrong = RENDER[name]([("get_weather", BAD)])
            assert accepts(grammar, text + wrong, tokens)[1] is False


@pytest.mark.parametrize("name", sorted(HEADERS))
def test_answers_with_headers(name: str) -> None:
    tokens, messages = tokenizer(True), FORMS[name].messages
    assert messages is not None
    header, end = messages.reasoning[0]
    free = call_grammar(_work(WEATHER, "auto"), tokens, FORMATS[name])
    forced = call_grammar(_work(WEATHER, "required"), tokens, FORMATS[name])
    answer, thought = f"{messages.answer}Hello.", f"{header}Hm, a < b.{end}"
    for before in ("", thought, thought + thought):
        assert accepts(free, before + answer, tokens) == (True, True)
        assert accepts(forced, before + answer, tokens)[0] is False
        call = RENDER[name]([("get_weather", GOOD)]).removesuffix("<|call|>")
        assert accepts(free, before + call, tokens)[1] and accepts(forced, before + call, tokens)[1]


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marked"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_calls_of_free_will(name: str, marked: bool) -> None:
    """However often a random model begins a call, in whatever spelling: each call that is parsed is valid."""
    tokens, calls = tokenizer(marked), 0
    openings = [*texts_of(name)[:2], *FORMATS[name].all_starts]
    first = RENDER[name]([("other-tool", {"k": "x"})]).split("other-tool")[0] if name not in OTHER_LAYOUT else ""
    for number, title in enumerate(("texts", "nested")):
        tool = Tool("get_it", None, SCHEMAS[title], strict=True)
        grammar = call_grammar(_work(tool, "auto"), tokens, FORMATS[name])
        for seed in range(4):
            rng = np.random.default_rng((number, seed, 5))
            begun = first if name in BARE | HEADERS or seed % 2 else f"So: {first}"
            begun, ending, stop = (begun, closers(name), 0.3) if seed < 3 else ("", [*openings, *closers(name)], 0.02)
            text = random_text(grammar, tokens, rng, ending, limit=20, first=begun, stop=stop)
            if text is not None:
                calls += _check(name, tool, text, None)[1]
    assert calls or name in OTHER_LAYOUT


def test_several_calls_and_one() -> None:
    tokens = tokenizer(True)
    for name in sorted(set(FORMATS) - HEADERS - set(OTHER_LAYOUT)):
        both = RENDER[name]([("get_weather", GOOD), ("get_weather", {"city": "Rome", "days": 1})])
        several = call_grammar(_work(WEATHER, "auto"), tokens, FORMATS[name])
        assert accepts(several, both, tokens) == (True, True), both
        for work in (_work(WEATHER, "auto", parallel=False), _work(WEATHER, "required")):
            assert accepts(call_grammar(work, tokens, FORMATS[name]), both, tokens)[1] is False, both


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3_coder", {"anyOf": [tool_schema(["a"], a=STRING), tool_schema(["b"], b=STRING)]}, "'anyOf'"),
    ("glm47", tool_schema([], **{"two words": STRING}), "'two words'"),
    ("minimax_m2", tool_schema([], a={"type": "string", "allOf": [{"minLength": 2}]}), "'allOf'"),
    ("qwen3_coder", tool_schema([], a={"enum": ["</parameter>"]}), "</parameter>"),
    ("gemma4", tool_schema([], a={"type": "object", "patternProperties": {"^x": STRING}}), "'patternProperties'"),
    ("gemma4", tool_schema([], a={"enum": ['<|"|>']}), "cannot be written"),
    ("pythonic", tool_schema([], **{"no-name": STRING}), "'no-name'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "schema", "said"), REFUSALS, ids=[f"{one[0]}-{one[2]}" for one in REFUSALS])
def test_what_a_format_cannot_say_is_refused_by_name(name: str, schema: dict[str, Any], said: str) -> None:
    """For strict tools; others are held to their format, with any arguments."""
    with pytest.raises((UnsupportedError, GrammarError), match=said.replace("|", r"\|")):
        call_grammar(_work(Tool("get_it", None, schema, strict=True)), tokenizer(False), FORMATS[name])
    loose = call_grammar(_work(Tool("get_it", None, schema)), tokenizer(False), FORMATS[name])
    text = random_text(loose, tokenizer(False), np.random.default_rng(3), closers(name), limit=1)
    assert text is not None
    parsed = parse_complete(text, ParserChoice(None, FORMATS[name]))
    assert [call.name for call in parsed.tool_calls] == ["get_it"] and not parsed.content


def test_names_of_tools_that_a_format_cannot_hold() -> None:
    with pytest.raises(UnsupportedError, match="a b"):
        call_grammar(_work(Tool("a b", None, SCHEMAS["none"])), tokenizer(False), FORMATS["qwen3_coder"])


WIDE = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 10} for i in range(12)}
HOSTILE: dict[str, dict[str, Any]] = {
    "definitions that multiply": {
        **tool_schema(["a"], a={"$ref": "#/$defs/d0"}), "$defs": {**WIDE, "d12": STRING},
    },
    "definitions copied often": {
        **tool_schema([], **{f"p{i}": {"type": "array", "items": {"$ref": "#/$defs/d"}} for i in range(300)}),
        "$defs": {"d": {"enum": ["x" * 100 + str(i) for i in range(5000)]}},
    },
    "a circle": {**tool_schema(["a"], a={"$ref": "#/$defs/x"}), "$defs": {"x": {"$ref": "#/$defs/x"}}},
    "long texts": tool_schema(["a"], a={"type": "string", "minLength": 10**5, "maxLength": 10**9}),
}  # fmt: skip


@pytest.mark.parametrize("name", ["qwen3_coder", "minicpm5", "gemma4", "pythonic"])
@pytest.mark.parametrize("title", sorted(HOSTILE))
def test_schemas_of_strangers_are_bounded_work(name: str, title: str) -> None:
    """A grammar or a refusal, at once; the parser's look at the types is bounded too."""
    tool = Tool("get_it", None, HOSTILE[title], strict=True)
    try:
        grammar = call_grammar(_work(tool), tokenizer(False), FORMATS[name])
    except (GrammarError, UnsupportedError):
        grammar = ""
    assert len(grammar) < 600_000
    assert ToolSchemas([tool.as_function()]).schema("get_it", "a") is not None
