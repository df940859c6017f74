"""Objects without surplus properties: a model that may always add another one often never ends.

Contract: `close_objects` gives a schema that accepts a part of what the given one accepts: objects which list their
properties and do not say what others may be get `additionalProperties: false`. Objects that are put together from
several schemas (`allOf`, `$ref` or `anyOf` beside other keywords) stay open, since each part knows only its own names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_lm.json_pointer import follow

__all__ = ["close_objects"]

_IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref", "not")
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", *_IN_PLACE)
_OF_OBJECTS = frozenset({"properties", "required", "minProperties", "maxProperties", "additionalProperties"})


def close_objects(root: Any) -> Any:
    """A copy of a prepared schema with its plain objects closed."""
    composed: set[str] = set()
    for schema, in_parts in _walk(root, False):
        if in_parts and isinstance(schema.get("$ref"), str):
            composed.add(schema["$ref"])
    if composed:
        composed |= _reached(root, composed)
    return _close(root, False, "#", composed)


def _parts(schema: Mapping[str, Any], in_parts: bool) -> Iterator[tuple[str, Any, bool]]:
    """(keyword, subschema, whether it is one of several that the same object must satisfy)."""
    in_place = [key for key in _IN_PLACE if key in schema]
    several = in_parts or len(in_place) > 1 or bool(in_place and _OF_OBJECTS & set(schema))
    for i, one in enumerate(schema.get("anyOf", ())):
        yield f"anyOf/{i}", one, several
    for i, one in enumerate(schema.get("oneOf", ())):  # closing one would make it differ from the others
        yield f"oneOf/{i}", one, True
    for i, one in enumerate(schema.get("allOf", ())):
        yield f"allOf/{i}", one, several or len(schema["allOf"]) > 1
    for key in ("items", "additionalProperties", "propertyNames"):
        if key in schema:
            yield key, schema[key], in_parts
    for i, one in enumerate(schema.get("prefixItems", ())):
        yield f"prefixItems/{i}", one, in_parts
    for key in ("properties", "patternProperties"):
        for name, one in schema.get(key, {}).items():
            yield f"{key}/{name}", one, in_parts
    for key in ("$defs", "definitions"):
        for name, one in schema.get(key, {}).items():
            yield f"{key}/{name}", one, False


def _walk(schema: Any, in_parts: bool) -> Iterator[tuple[Mapping[str, Any], bool]]:
    if not isinstance(schema, Mapping):
        return
    several = in_parts or ("$ref" in schema and bool(set(schema) & {*_OF_OBJECTS, "allOf", "anyOf", "oneOf"}))
    yield schema, several
    for _, one, inside in _parts(schema, in_parts):
        yield from _walk(one, inside)


def _reached(root: Any, composed: set[str]) -> set[str]:
    """References inside definitions that are themselves parts of something."""
    found = set(composed)
    waiting = list(composed)
    while waiting:
        reference = waiting.pop()
        # What a name ($anchor) stands for is not looked up: everything may be part of it.
        schema = follow(root, reference) if reference.startswith("#/") else root
        for part, _ in _walk(schema, True):
            name = part.get("$ref")
            if isinstance(name, str) and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def _close(schema: Any, in_parts: bool, path: str, composed: set[str]) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    in_parts = in_parts or path in composed or "$anchor" in schema or ("$id" in schema and path != "#")
    closed = dict(schema)
    for key, one, inside in _parts(schema, in_parts):
        outer, _, inner = key.partition("/")
        new = _close(one, inside, f"{path}/{key}", composed)
        if not inner:
            closed[outer] = new
        elif isinstance(schema[outer], Mapping):
            closed[outer] = {**closed[outer], inner: new}
        else:
            closed[outer] = [new if i == int(inner) else old for i, old in enumerate(closed[outer])]
    if not in_parts and "properties" in schema and not any(key in schema for key in _OPEN):
        required = [name for name in schema.get("required", ()) if name not in schema["properties"]]
        if not required:
            closed["additionalProperties"] = False
    return closed
