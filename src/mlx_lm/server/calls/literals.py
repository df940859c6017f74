"""Parameters that are written as literals: Python's keyword arguments, or Gemma's objects.

Contract: `Literals.write` gives the expression of the parameters of one tool, in the order of the schema. A `Notation`
says how literals look; values of a schema are built from it. Where a notation holds JSON (Python's does, to the
parser), what cannot be built is written as JSON; where it does not, it is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UnsupportedError
from ...grammar.patterns import lark_string
from ..work import Tool
from .members import members_of, resolve, with_definitions
from .rules import Rules
from .texts import string_text

__all__ = ["GEMMA4", "GEMMA_FUNCTION", "PYTHON", "Literals", "Notation"]

_TYPES = ("string", "number", "boolean", "null", "array", "object")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format", "allOf")
_NOTES = frozenset(("title", "description", "default", "examples", "$defs", "definitions", "$schema", "$comment"))
_KNOWN = _NOTES | {
    "type", "enum", "const", "anyOf", "items", "prefixItems", "minItems", "maxItems", "properties", "required",
    "additionalProperties", *_NUMBERS, "minLength", "maxLength", "pattern",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d][\w\-.]*")
_IDENTIFIER = re.compile(r"[^\W\d]\w{0,100}")
_OTHER_WORD = "[A-Za-z_][A-Za-z0-9_]{0,40}"
_SINGLE = r"/'(?:[^'\\\x00-\x1f\x7f]|\\['\\nt])*'/"


@dataclass(frozen=True)
class Notation:
    """How literals are written.

    Attributes:
        quote: what begins and ends strings, which stand for themselves; empty where they are as in JSON.
        words: of true, false and null.
        colon, comma: between a key and its value, between members.
        holds_json: every JSON text is a literal too.
    """

    quote: str = ""
    words: tuple[str, str, str] = ("true", "false", "null")
    colon: str = ":"
    comma: str = ","
    holds_json: bool = False


PYTHON = Notation(words=("True", "False", "None"), colon=": ", comma=", ", holds_json=True)
GEMMA4 = Notation('<|"|>')
GEMMA_FUNCTION = Notation("<escape>")


@dataclass(frozen=True)
class Literals:
    """Parameters as members of an object without its braces, or with `equals` as keyword arguments."""

    notation: Notation
    equals: bool = False

    def write(self, rules: Rules, tool: Tool, loose: bool) -> str:
        """The expression of a tool's parameters; `loose` takes any. Raises UnsupportedError, GrammarError."""
        members = members_of(tool, loose=loose)
        build = _Builder(rules, self.notation, members.root, f"The tool {tool.name!r}")
        if self.equals:
            for name in members.properties:
                if not _IDENTIFIER.fullmatch(name):
                    raise UnsupportedError(f"The parameter {name!r} of {tool.name!r} is no name for an argument.")
        return build.members(members.properties, members.required, members.additional, "", self.equals)


@dataclass(frozen=True)
class _Builder:
    """Builds the rules of values in one document of schemas."""

    rules: Rules
    notation: Notation
    root: Mapping[str, Any]
    where: str

    def members(
        self, properties: Mapping[str, Any], required: Any, additional: Any, path: str, equals: bool = False
    ) -> str:
        """Members in order, with commas between them."""
        rules, comma = self.rules, self.rules.text(self.notation.comma)
        colon = "=" if equals else self.notation.colon
        extra = ""
        if additional is not False:
            listed = "".join(f" & ~{lark_string(name)}" for name in properties)
            name = rules.terminal(f"/{_OTHER_WORD}/{listed}")
            quote = '"\\""' if not equals and self.notation.holds_json else '""'
            value = self.value(additional, f"{path}/additionalProperties")
            extra = f"{quote} {name} {quote} {rules.text(colon)} {value}"
        tail = rules.rule(f"({comma} {extra})*" if extra else '""')  # when something stands before
        alone = f"({extra} {tail})?" if extra else ""  # when nothing does
        for name, schema in reversed(list(properties.items())):
            item = f"{self._key(name, equals)} {rules.text(colon)} {self.value(schema, f'{path}/properties/{name}')}"
            if name in required:
                alone, tail = f"{item} {tail}", rules.rule(f"{comma} {item} {tail}")
            else:
                alone = f"({item} {tail} | {rules.rule(alone)})" if alone else f"({item} {tail})?"
                tail = rules.rule(f"({comma} {item})? {tail}")
        return rules.rule(alone or '""')

    def _key(self, name: str, equals: bool) -> str:
        if equals or (self.notation.quote and _WORD.fullmatch(name)):
            return self.rules.text(name)
        return self._string(name)

    def _string(self, text: str) -> str:
        quote = self.notation.quote
        if not quote:
            return self.rules.text(json.dumps(text, ensure_ascii=False))
        if quote in text:
            raise UnsupportedError(f"{self.where}: {text!r} cannot be written in this model's calls.")
        return f"{self.rules.text(quote)} {self.rules.text(text)} {self.rules.text(quote)}"

    def value(self, schema: Any, path: str) -> str:
        """The rule of a schema's values."""
        if isinstance(schema, Mapping) and set(schema) - _NOTES == {"$ref"}:
            path = str(schema["$ref"]).removeprefix("#")
            return self.rules.recursive(f"{self.where}{path}", lambda: self._body(resolve(schema, self.root), path))
        if schema is True or not set(schema) - _NOTES:
            return self.rules.recursive(f"{self.notation}", lambda: self._of_types(_TYPES, {}, "any"))
        return self.rules.rule(self._body(resolve(schema, self.root), path))

    def _body(self, schema: Mapping[str, Any], path: str) -> str:
        try:
            return self._build(schema, path)
        except UnsupportedError:
            if not self.notation.holds_json:
                raise
            return self.rules.json(with_definitions(schema, self.root, f"{self.where}, {path}"))

    def _build(self, schema: Mapping[str, Any], path: str) -> str:
        kinds = schema.get("type", _TYPES)
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is not None:
            return " | ".join(self._constant(value) for value in values if _is_of(value, kinds)) or self._refuse(
                "enum", path
            )
        if "anyOf" in schema and not set(schema) - _NOTES - {"anyOf"}:
            return " | ".join(
                self.value(one, f"{path}/anyOf/{i}") for i, one in enumerate(schema["anyOf"]) if one is not False
            )
        unknown = sorted(set(schema) & {"oneOf", "not", "patternProperties", "minProperties", "maxProperties"})
        unknown += ["anyOf"] if "anyOf" in schema else []
        if unknown:
            self._refuse(unknown[0], path)
        return self._of_types(kinds, schema, path)

    def _refuse(self, key: str, path: str) -> str:
        raise UnsupportedError(f"{self.where}, {path}: {key!r} cannot be enforced in this model's calls.")

    def _of_types(self, kinds: Sequence[str], schema: Mapping[str, Any], path: str) -> str:
        builders: dict[str, Callable[[Mapping[str, Any], str], str]] = {
            "string": self._strings,
            "array": self._array,
            "object": self._object,
            "boolean": lambda schema, path: f'"{self.notation.words[0]}" | "{self.notation.words[1]}"',
            "null": lambda schema, path: f'"{self.notation.words[2]}"',
        }
        found = []
        for kind in kinds:
            if kind in ("number", "integer"):
                said = {key: schema[key] for key in _NUMBERS if key in schema}
                found.append(self.rules.json({**said, "type": kind}))
            else:
                found.append(builders[kind](schema, path))
        return " | ".join(found)

    def _strings(self, schema: Mapping[str, Any], path: str) -> str:
        said = {k: schema[k] for k in ("minLength", "maxLength", "pattern", "format", "allOf") if k in schema}
        quote = self.notation.quote
        if quote:
            return f"{self.rules.text(quote)} {self.rules.until(string_text(said, f'{self.where}, {path}'), quote)}"
        text = self.rules.json({**said, "type": "string"})
        return text if said else f"{text} | {self.rules.terminal(_SINGLE)}"

    def _constant(self, value: Any) -> str:
        true, false, null = self.notation.words
        if isinstance(value, str):
            return self._string(value)
        if value is None or isinstance(value, bool):
            return f'"{null if value is None else true if value else false}"'
        if isinstance(value, int | float):
            return self.rules.text(json.dumps(value))
        comma, colon = (self.rules.text(one) for one in (self.notation.comma, self.notation.colon))
        if isinstance(value, list):
            return f'"[" {f" {comma} ".join(map(self._constant, value))} "]"'
        inner = f" {comma} ".join(
            f"{self._key(key, False)} {colon} {self._constant(one)}" for key, one in value.items()
        )
        return f'"{{" {inner} "}}"'

    def _array(self, schema: Mapping[str, Any], path: str) -> str:
        comma = self.rules.text(self.notation.comma)
        first = schema.get("prefixItems", ())
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most is not None and most < least:
            self._refuse("maxItems", path)
        inner = ""
        if schema.get("items", True) is not False and (most is None or most > len(first)):
            item = self.value(schema.get("items", True), f"{path}/items")
            low, high = max(least - len(first), 0), "" if most is None else most - len(first)
            if first:
                inner = f"({comma} {item}){{{low},{high}}}"
            else:
                again = f"({comma} {item}){{{max(low - 1, 0)},{'' if high == '' else high - 1}}}"
                inner = f"{item} {again}" if low else f"({item} {again})?"
        elif least > len(first):
            self._refuse("minItems", path)
        kept = first if most is None else first[:most]
        for number in range(len(kept) - 1, -1, -1):
            item = f"{self.value(kept[number], f'{path}/prefixItems/{number}')} {inner}"
            inner = f"{comma} {item}" if number else item
            if number >= least:
                inner = f"({inner})?"
        return f'"[" {inner} "]"'

    def _object(self, schema: Mapping[str, Any], path: str) -> str:
        required = schema.get("required", ())
        additional = schema.get("additionalProperties", True)
        properties = dict(schema.get("properties", {}))
        for name in required:
            if properties.setdefault(name, additional) is False:
                self._refuse("required", path)
        kept = {name: value for name, value in properties.items() if value is not False}
        return f'"{{" {self.members(kept, required, additional, path)} "}}"'


def _is_of(value: Any, kinds: Sequence[str]) -> bool:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    name = "null" if value is None else names[type(value)]
    return name in kinds or (name == "integer" and "number" in kinds)
