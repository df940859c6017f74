"""What a tool's schema says of its parameters one by one, for formats that write them one by one.

Contract: `members_of` gives the parameters of a prepared schema, or refuses by name what only holds for all of them
together. A tool that is not strict takes any parameters where its schema cannot be kept. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import GrammarError, UnsupportedError
from ...grammar import prepare_schema
from ...json_pointer import follow
from ..work import Tool

__all__ = ["Members", "arguments_schema", "definitions", "members_of", "resolve", "with_definitions"]

_TOGETHER = ("anyOf", "oneOf", "allOf", "not", "patternProperties", "enum", "const", "maxProperties")
_MAX_HOPS = 20


@dataclass(frozen=True)
class Members:
    """The parameters of a tool: prepared schemas by name, in order; what others may be (False: there are none)."""

    properties: Mapping[str, Any]
    required: frozenset[str]
    additional: Any
    root: Mapping[str, Any]


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The prepared schema of the arguments; a tool that is not strict falls back to any object."""
    try:
        return prepare_schema({"type": "object", **tool.parameters}, closed=tool.strict)
    except GrammarError:
        if tool.strict:
            raise
        return prepare_schema({"type": "object"})


def members_of(tool: Tool, *, loose: bool = False) -> Members:
    """The parameters of a tool; `loose` takes any.

    Raises:
        GrammarError: the schema of a strict tool is malformed or cannot be enforced.
        UnsupportedError: it says something of all parameters together.
    """
    root = {"type": "object"} if loose else arguments_schema(tool)
    schema = resolve(root, root)
    for key in _TOGETHER:
        if key in schema:
            raise UnsupportedError(
                f"The tool {tool.name!r}: this model writes the parameters of a call one by one, which cannot be held "
                f"to {key!r} for all of them."
            )
    properties = dict(schema.get("properties", {}))
    required = frozenset(schema.get("required", ()))
    additional = schema.get("additionalProperties", True)
    for name in required - set(properties):
        properties[name] = additional
    if schema.get("minProperties", 0) > max(len(required), 0):
        raise UnsupportedError(f"The tool {tool.name!r}: 'minProperties' cannot be enforced in this model's calls.")
    if any(properties[name] is False for name in required):
        raise GrammarError(f"The tool {tool.name!r} requires a parameter that its schema excludes.")
    kept = {name: value for name, value in properties.items() if value is not False}
    return Members(kept, required, additional, root)


def resolve(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as a dict, with references inside `root` followed. Raises GrammarError for others."""
    for _ in range(_MAX_HOPS):
        if schema is True:
            return {}
        if "$ref" not in schema:
            return dict(schema)
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        target = _target(schema["$ref"], root)
        rest = {key: value for key, value in rest.items() if key not in ("title", "description", "default", "$defs")}
        if rest and set(rest) & set(target) - {"type"}:
            raise GrammarError(f"Keywords beside $ref {schema['$ref']!r} cannot be enforced in this model's calls.")
        schema = {**target, **rest}
    raise GrammarError("References lead in a circle.")


def _target(reference: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found = follow(root, reference)
    if found is True:
        return {}
    if not isinstance(found, Mapping):
        raise GrammarError(f"$ref {reference!r} does not lead to a schema of this document.")
    return found


def definitions(root: Mapping[str, Any]) -> dict[str, Any]:
    """The named schemas of a document."""
    return {key: root[key] for key in ("$defs", "definitions") if key in root}


def with_definitions(schema: Any, root: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A part of a document as a schema of its own. Raises UnsupportedError for references to other parts of it."""
    whole = {} if schema is True else dict(schema)
    references = set(_references(whole))
    if not references:
        return whole
    for path in references:
        if not path.startswith(("#/$defs/", "#/definitions/")):
            raise UnsupportedError(f"{where}: $ref {path!r} cannot be enforced in this model's calls; use $defs.")
    return {**definitions(root), **whole}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
