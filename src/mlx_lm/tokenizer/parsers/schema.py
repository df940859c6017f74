"""What a tool's JSON schema says about an argument that a model wrote as plain text.

Contract: `ToolSchemas` finds the types of a parameter; `as_json` gives the JSON text of a value. The schema decides:
"7" is a number for an integer and a string for a string. Without a schema, what reads as JSON is JSON. A value that
does not fit its schema becomes a string, so that nothing is lost.

This module does not know formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_lm.json_pointer import follow
from mlx_lm.tokenizer.parsers.values import PYTHON, escape, transcode

__all__ = ["TextValue", "ToolSchemas", "as_json"]

_MAX_NESTING = 8
_MAX_FOLLOWED = 256
_ALL = frozenset(("string", "number", "integer", "boolean", "object", "array", "null"))


class ToolSchemas:
    """The tools of a request: OpenAI's form, its inner function, or Anthropic's `input_schema`. None: not known."""

    def __init__(self, tools: Sequence[Any] | None = None) -> None:
        self._known = tools is not None
        self._parameters: dict[str, Mapping[str, Any]] = {}
        for tool in tools or ():
            function = tool.get("function", tool) if isinstance(tool, Mapping) else None
            if isinstance(function, Mapping) and isinstance(function.get("name"), str):
                schema = function.get("parameters", function.get("input_schema"))
                self._parameters[function["name"]] = schema if isinstance(schema, Mapping) else {}

    def offers(self, name: str) -> bool:
        """Whether a tool of this name may be called: yes if the tools are not known."""
        return not self._known or name in self._parameters

    @property
    def known(self) -> bool:
        return self._known

    def _properties(self, tool: str) -> Mapping[str, Any]:
        found = self._parameters.get(tool, {}).get("properties")
        return found if isinstance(found, Mapping) else {}

    def names(self, tool: str) -> tuple[str, ...]:
        """The names of the parameters in their order."""
        return tuple(map(str, self._properties(tool)))

    def schema(self, tool: str, parameter: str) -> Mapping[str, Any]:
        """The schema of a parameter, with references inside the tool's schema followed; empty if it is not known."""
        found = self._properties(tool).get(parameter)
        return _Follower(self._parameters.get(tool, {})).schema(found, 0) if isinstance(found, Mapping) else {}


class _Follower:
    """Puts what references lead to in their place, as far as it says a type; those that lead nowhere stay.

    Definitions that name each other often would grow beyond all bounds: after `_MAX_FOLLOWED` schemas the rest stays.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MAX_FOLLOWED

    def schema(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        self._left -= 1
        if depth > _MAX_NESTING or self._left < 0:
            return schema
        target = follow(self._root, schema.get("$ref"))
        if isinstance(target, Mapping):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return self.schema({**target, **rest}, depth + 1)
        new = dict(schema)
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list | tuple):
                new[key] = [self.schema(one, depth + 1) if isinstance(one, Mapping) else one for one in schema[key]]
        return new


def types_of(schema: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema allows; empty if it does not say."""
    kind = schema.get("type")
    listed = kind if isinstance(kind, list | tuple) else (kind,)
    kinds = {one.lower() for one in listed if isinstance(one, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        for option in options if isinstance(options, list | tuple) and depth < _MAX_NESTING else ():
            if isinstance(option, Mapping):
                kinds |= types_of(option, depth + 1)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if not kinds and isinstance(values, list | tuple):
        kinds = {_type_of_value(value) for value in values}
    if schema.get("nullable") is True and kinds:
        kinds.add("null")
    return frozenset(kinds & _ALL)


def _type_of_value(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "array" if isinstance(value, list) else "object"


def _type_of_json(text: str) -> str:
    kinds = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
    return kinds.get(text[0]) or ("number" if any(c in text for c in ".eE") else "integer")


def as_json(text: str, schema: Mapping[str, Any]) -> str:
    """The JSON text of the value written as `text`."""
    kinds = types_of(schema)
    string = f'"{escape(text)}"'
    if kinds == {"string"}:
        return string
    plain = text.strip()
    value = transcode(plain) if plain else None
    if value is None and plain[:1] in "[{(" and plain:
        value = transcode(plain, PYTHON)
    if value is None:
        return string
    kind = _type_of_json(value)
    if not kinds or kind in kinds:
        return string if kind == "string" and "string" in kinds else value
    if kind == "integer" and "number" in kinds:
        return value
    if kind == "number" and "integer" in kinds and value.endswith(".0"):
        return value[:-2]
    if value in ("0", "1") and "boolean" in kinds and "string" not in kinds:
        return "true" if value == "1" else "false"
    return string


class TextValue:
    """One argument that arrives as plain text: strings are passed on at once, other types when they are complete."""

    def __init__(self, schema: Mapping[str, Any], sink: Callable[[str], None], is_string: bool | None = None) -> None:
        kinds = types_of(schema)
        self._schema: Mapping[str, Any] = schema
        if is_string is not None:  # the model has said so
            kinds = frozenset(("string",)) if is_string else kinds - {"string"} or _ALL - {"string"}
            self._schema = {"type": sorted(kinds)}
        self._sink = sink
        self._held: str | None = ""
        self._nullable = kinds == {"string", "null"}
        if kinds == {"string"}:
            self._open()

    def _open(self) -> None:
        held, self._held = self._held or "", None
        self._sink('"' + escape(held))

    def add(self, piece: str) -> None:
        """The next piece of the text."""
        if self._held is None:
            self._sink(escape(piece))
            return
        self._held += piece
        if self._nullable and not any(word.startswith(self._held.strip()) for word in ("null", "None")):
            self._open()

    def end(self) -> None:
        """The text is complete."""
        self._sink('"' if self._held is None else as_json(self._held, self._schema))
