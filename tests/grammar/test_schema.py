"""JSON Schema: what is enforced, rewritten and refused. The official suite is in test_official_suite."""

import json
import time
from typing import Any

import pytest

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import CFG, Choice, JsonSchema, Regex, check_output_type, compile_constraint, prepare_schema


def accepts(tokenizer: Any, spec: Any, value: Any) -> bool:
    text = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return compile_constraint(spec, tokenizer).start().validate([*text, 256]) == len(text) + 1


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-1", "0000-01-01"]),
        ({"type": "string", "format": "time"}, ["23:59:59Z"], ["23:59:60Z", "24:00:00Z"]),
        ({"type": "string", "format": "byte"}, ["", "YWI="], ["YWI", "a"]),
        ({"type": "string", "format": "password"}, ["x"], [1]),
        ({"type": "integer", "format": "int32"}, [2**31 - 1, -(2**31)], [2**31]),
        ({"type": "number", "format": "double"}, [1.5], ["x"]),
        ({"type": "string", "format": "json-pointer"}, ["", "/a~1b"], ["a", "/a~2"]),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, [{}, {"a": 1}], [{"b": 1}]),
        ({"properties": {"a": {}}, "additionalProperties": True, "type": "object"}, [{"b": 1}], []),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 2}], [{"a": 1}]),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{"b": 1}], [{"c": 1}]),
        ({"type": "object", "propertyNames": {"pattern": "^x"}}, [{"xy": 1}], [{"y": 1}]),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, [[], [2, 1]], [[1, 1]]),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[1]], [[1, 2]]),
        ({"not": {"type": ["string", "null"]}}, [1, [], {}], ["x", None]),
        ({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, [[1]], [["a"], [1, 2]]),
        ({"exclusiveMinimum": True, "minimum": 3, "type": "integer"}, [4], [3]),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["a", 1], [None]),
        (
            {
                "allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}],
                "properties": {"b": {}},
                "unevaluatedProperties": False,
                "type": "object",
            },
            [{"a": 1, "b": 1}],
            [{"a": 1, "b": 1, "c": 1}, {"b": 1}],
        ),
        ({"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}, ["1.5", "-3"], ["-", ""]),
        ({"const": "a/b\"\\ é😀\n"}, ["a/b\"\\ é😀\n"], ["a"]),
    ],
    ids=lambda x: json.dumps(x)[:50],
)  # fmt: skip
def test_enforced(byte_tokenizer: Any, schema: Any, good: list[Any], bad: list[Any]):
    for value in good:
        assert accepts(byte_tokenizer, JsonSchema(schema), value), value
    for value in bad:
        assert not accepts(byte_tokenizer, JsonSchema(schema), value), value


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"contains": {"type": "integer"}}, "contains"),
        ({"properties": {"a": {"if": {"const": 1}, "then": {"type": "string"}}}}, "#/properties/a.*'if'"),
        ({"not": {"const": 1}}, "not"),
        ({"$dynamicRef": "#x"}, r"\$dynamicRef"),
        ({"format": "regex"}, "format 'regex'"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"anyOf": [{"type": "object"}], "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$ref": "http://example.com/x"}, r"\$ref"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=x)"}, "look-around"),
        ({"const": "\x01"}, "const"),
        ({"enum": []}, "enum"),
        ({"anyOf": []}, "anyOf"),
        ({"minLength": -1}, "minLength"),
        ({"properties": []}, "properties"),
        ({"items": 3}, "#/items"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, r"\$schema"),
        ({"x-guidance": {"lenient": True}, "contains": {}}, "contains"),
        (False, "false"),
        ("{", "valid JSON"),
        ("[1]", "object"),
        (float("nan"), "JSON"),
        ({"$ref": "#"}, "accepts nothing|cannot be used"),
    ],
    ids=lambda x: str(x)[:50],
)  # fmt: skip
def test_refused_by_name(byte_tokenizer: Any, schema: Any, named: str):
    with pytest.raises(GrammarError, match=named):
        compile_constraint(JsonSchema(schema), byte_tokenizer)


def test_the_given_schema_is_not_changed():
    schema = {"type": "object", "properties": {"a": {"format": "date"}}, "dependentRequired": {"a": ["b"]}}
    before = json.dumps(schema)
    prepare_schema(schema)
    assert json.dumps(schema) == before


def test_a_name_comes_once_in_every_spelling(byte_tokenizer: Any):
    schema = JsonSchema({"type": "object", "properties": {"a": {"type": "integer"}}}, closed=False)
    assert accepts(byte_tokenizer, schema, b'{"a":1,"b":2}')
    assert not accepts(byte_tokenizer, schema, b'{"a":1,"\\u0061":"x"}')
    assert not accepts(byte_tokenizer, schema, b'{"a":1,"a":2}')


@pytest.mark.parametrize("blank", [b" ", b"\n    ", b"\r\n\t"])
def test_whitespace_is_bounded(byte_tokenizer: Any, blank: bytes):
    schema = {"type": "array", "items": {"type": "integer"}}
    assert accepts(byte_tokenizer, JsonSchema(schema), b"[" + blank + b"1]")
    for run in (b" " * 2, b"\n\n", b"\n" + b" " * 40):
        assert not accepts(byte_tokenizer, JsonSchema(schema), b"[" + run + b"1]")
    assert not accepts(byte_tokenizer, JsonSchema(schema, compact=True), b"[" + blank + b"1]")


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE = [
    JsonSchema(_nested(200)),
    JsonSchema('{"items":' * 5000 + "{}" + "}" * 5000),
    JsonSchema({"enum": [f"v{i}" for i in range(200_000)]}),
    JsonSchema({"description": "x" * 2_000_000}),
    JsonSchema({"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(30)]}),
    JsonSchema({"properties": {f"k{i}": {"pattern": "(a|b|ab){50}" * 5} for i in range(3000)}}),
    Regex("(" * 3000 + ")" * 3000),
    Regex("a" * 200_000),
    Regex("("),
    Regex(r"(a)\1"),
    Regex("(?<=a)b"),
    CFG("start: " + '"a" ' * 300_000),
    CFG("start: a b"),
    CFG(""),
    CFG("root ::= ("),
    CFG("root ::= " + "(" * 5000),
    Choice([]),
    Choice([f"{i}" for i in range(30_000)]),
]


@pytest.mark.parametrize("spec", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_definitions_are_refused_in_time(byte_tokenizer: Any, spec: Any):
    start = time.process_time()
    with pytest.raises(GrammarError):
        compile_constraint(spec, byte_tokenizer)
    assert time.process_time() - start < 10
    with pytest.raises(GrammarError):
        check_output_type(spec)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**8, "maxItems": 10**9},
        {"type": "string", "minLength": 10**6},
        {"type": "integer", "multipleOf": 9973},
        {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}, "type": "array"}}, "$ref": "#/$defs/a"},
    ],
    ids=str,
)
def test_large_bounds_are_cheap(byte_tokenizer: Any, schema: Any):
    start = time.process_time()
    constraint = compile_constraint(JsonSchema(schema), byte_tokenizer).start()
    constraint.mask()
    assert time.process_time() - start < 5
