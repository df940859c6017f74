"""JSON Schema as llguidance takes it: checked, and rewritten where it cannot say something itself.

Contract: everything that the prepared schema accepts, the given one accepts. What cannot be enforced is refused with a
GrammarError that names the keyword and where it stands; nothing is ignored but annotations (title, description,
default, examples, unknown keywords), as the specification says. A schema is data of strangers: its size and depth are
limited, and references never leave it.

Source: JSON Schema 2020-12 (core and validation); older drafts' forms are rewritten to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.closed import close_objects
from mlx_lm.grammar.patterns import BASE64, FORMAT_PATTERNS, schema_regex
from mlx_lm.grammar.rewrite import evaluated_names, exclusive, names_rule, negation, permutations, required_rules
from mlx_lm.json_pointer import follow

__all__ = ["MAX_DEPTH", "MAX_SCHEMA_BYTES", "prepare_schema"]

MAX_SCHEMA_BYTES = 1_000_000
MAX_DEPTH = 60
MAX_PATTERNS = 500  # the compiler joins them into one automaton

_REFUSED = {
    "$dynamicRef": "references that depend on the way there",
    "$recursiveRef": "references that depend on the way there",
    "contains": "an array that must contain something",
    "minContains": "an array that must contain something",
    "maxContains": "an array that must contain something",
    "if": "conditions",
    "then": "conditions",
    "else": "conditions",
    "contentSchema": "a schema of text inside a string",
    "disallow": "draft 3",
    "extends": "draft 3",
}
_IN_PLACE = ("allOf", "anyOf", "oneOf", "$ref", "if", "then", "else", "dependentSchemas", "not", "contains")
# Formats that the compiler enforces; those that are enforced as a narrower one; those that say nothing of a text.
_KNOWN_FORMATS = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", *FORMAT_PATTERNS})
_NARROWER = {"uri-reference": "uri", "iri": "uri", "iri-reference": "uri", "url": "uri", "idn-email": "email"}
_NARROWER |= {"ip-address": "ipv4", "uuid4": "uuid"}
_ANY_TEXT = frozenset({"password", "binary", "path", "textarea", "multiline", "markdown", "text", "string"})
_NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "float": None,
    "double": None,
    "decimal": None,
}
_INTEGERS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
# Patterns of pydantic's own types that use look-around, without it.
_KNOWN_PATTERNS = {
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$": r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)$",
}
_CONTROL = re.compile(r"(?<!\\)(?:\\\\)*\\u00(?:[01][0-9a-f]|7f)")
_DRAFTS = ("2020-12", "2019-09", "draft-07", "draft-06", "draft-04")


def prepare_schema(schema: Any, *, closed: bool = True) -> dict[str, Any]:
    """The schema to compile: a new dict. `schema` is a dict, JSON text, a bool, or a pydantic model class.

    `closed`: objects that list their properties have no others, see `close_objects`.
    Raises GrammarError naming what is malformed or not supported.
    """
    value = _read(schema)
    if value is False:
        raise GrammarError("The schema is false: no value is accepted.")
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise GrammarError(f"A JSON Schema must be an object, not {type(value).__name__}.")
    draft = value.get("$schema")
    if draft is not None and not (isinstance(draft, str) and any(name in draft for name in _DRAFTS)):
        raise GrammarError(f"$schema: {draft!r} is not supported; drafts 4, 6, 7, 2019-09 and 2020-12 are.")
    old = isinstance(draft, str) and any(name in draft for name in _DRAFTS[2:])
    prepared = _Preparation(value, siblings=not old).schema(dict(value), "#")
    prepared.pop("$schema", None)  # it is of 2020-12 now
    return close_objects(prepared) if closed else prepared


def _read(schema: Any) -> Any:
    if isinstance(schema, type) and callable(getattr(schema, "model_json_schema", None)):
        schema = schema.model_json_schema()  # type: ignore[attr-defined]
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        if len(text) > MAX_SCHEMA_BYTES:
            raise GrammarError(f"The schema has {len(text):,} characters; at most {MAX_SCHEMA_BYTES:,} are taken.")
        return json.loads(text)
    except RecursionError as error:
        raise GrammarError("The schema is nested too deeply.") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"The schema is not valid JSON: {error}") from error


class _Preparation:
    """Walks one document. `siblings`: keywords beside `$ref` count (since 2019-09)."""

    def __init__(self, root: Mapping[str, Any], siblings: bool) -> None:
        self.root = root
        self.siblings = siblings
        self.depth = 0
        self.patterns = 0

    def schema(self, value: Any, where: str) -> Any:
        """A schema at any place where one may stand."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, Mapping):
            raise GrammarError(f"{where}: a schema must be an object or a bool, not {value!r:.60}.")
        if self.depth >= MAX_DEPTH:
            raise GrammarError(f"{where}: schemas are nested more than {MAX_DEPTH} deep.")
        self.depth += 1
        try:
            return self._object(dict(value), where)
        finally:
            self.depth -= 1

    def _object(self, schema: dict[str, Any], where: str) -> dict[str, Any]:
        if "$ref" in schema:
            if not isinstance(schema["$ref"], str):
                raise GrammarError(f"{where}: $ref must be a text.")
            if not self.siblings:
                schema = {k: v for k, v in schema.items() if k in ("$ref", "$defs", "definitions")}
            schema["$ref"] = re.sub(r"/items/(?=[0-9])", "/prefixItems/", schema["$ref"])
        for name in _REFUSED:
            if name in schema and not _harmless(name, schema):
                raise GrammarError(f"{where}: the JSON Schema keyword {name!r} ({_REFUSED[name]}) is not supported.")
        if not self.siblings and "contentMediaType" in schema:
            raise GrammarError(f"{where}: the JSON Schema keyword 'contentMediaType' is not supported.")
        self.patterns += ("pattern" in schema) + len(schema.get("patternProperties", ()))
        if self.patterns > MAX_PATTERNS:
            raise GrammarError(f"{where}: more than {MAX_PATTERNS} patterns in one schema.")
        schema.pop("x-guidance", None)
        _constants(schema, where)
        for rule in (_integers, _old_forms, _texts, _numbers, self._unevaluated):
            rule(schema, where)
        extra = [*required_rules(schema, where), *names_rule(schema, where, self.resolve)]
        _map_sizes(schema, where)
        permutations(schema, where, self.resolve)
        extra += negation(schema, where)
        either = exclusive(schema, self.resolve)
        if either and "anyOf" not in schema:
            schema.update(either.pop())
        extra += either
        if extra:
            schema["allOf"] = [*schema.get("allOf", []), *extra]
        self._children(schema, where)
        return schema

    def _children(self, schema: dict[str, Any], where: str) -> None:
        for key, value, put in _subschemas(schema, where):
            put(self.schema(value, f"{where}/{key}"))

    def resolve(self, schema: Any) -> Any:
        """A schema with local references followed, for rules that must look into it."""
        for _ in range(20):
            if not isinstance(schema, Mapping) or set(schema) - {"title", "description"} != {"$ref"}:
                return schema
            target = follow(self.root, schema["$ref"])
            if target is None:
                return schema
            schema = target
        return schema

    def _unevaluated(self, schema: dict[str, Any], where: str) -> None:
        for name, plain in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
            if name not in schema:
                continue
            if schema[name] is True:
                del schema[name]
            elif any(key in schema for key in _IN_PLACE):
                names = evaluated_names(schema, self.resolve) if schema[name] is False else None
                if name == "unevaluatedProperties" and names is not None:
                    del schema[name]
                    mine = schema.get("properties", {})
                    schema["properties"] = {**mine, **{one: True for one in names if one not in mine}}
                    schema["additionalProperties"] = False
                    continue
                raise GrammarError(f"{where}: {name!r} beside schemas that apply in place is not supported.")
            else:
                schema.setdefault(plain, schema.pop(name))
                schema.pop(name, None)


def _constants(schema: Mapping[str, Any], where: str) -> None:
    """JSON writes control characters with `\\u`, which is switched off: see `lark`."""
    for name in ("const", "enum"):
        if name in schema and _CONTROL.search(json.dumps(schema[name])):
            raise GrammarError(f"{where}: {name} with control characters is not supported.")
        if name == "enum" and name in schema and not (isinstance(schema[name], list) and schema[name]):
            raise GrammarError(f"{where}: enum must be a list of at least one value.")


def _harmless(name: str, schema: Mapping[str, Any]) -> bool:
    """Keywords without their partner say nothing."""
    if name in ("then", "else"):
        return "if" not in schema
    if name == "if":
        return "then" not in schema and "else" not in schema
    return name in ("minContains", "maxContains") and "contains" not in schema


def _subschemas(schema: dict[str, Any], where: str) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    """(path, subschema, how to replace it) of every place where a schema stands directly below."""
    for key in ("items", "additionalProperties", "additionalItems", "not", "propertyNames"):
        if key in schema:
            yield key, schema[key], lambda new, key=key: schema.__setitem__(key, new)
    for key in ("allOf", "anyOf", "oneOf", "prefixItems"):
        if key in schema:
            if not isinstance(schema[key], list) or not (schema[key] or key == "prefixItems"):
                raise GrammarError(f"{where}: {key} must be a list of schemas.")
            schema[key] = list(schema[key])
            for i, value in enumerate(schema[key]):
                yield f"{key}/{i}", value, lambda new, key=key, i=i: schema[key].__setitem__(i, new)
    for key in ("properties", "patternProperties", "$defs", "definitions"):
        if key in schema:
            if not isinstance(schema[key], Mapping):
                raise GrammarError(f"{where}: {key} must be an object of schemas.")
            schema[key] = dict(schema[key])
            for name, value in schema[key].items():
                yield f"{key}/{name}", value, lambda new, key=key, name=name: schema[key].__setitem__(name, new)


def _integers(schema: dict[str, Any], where: str) -> None:
    for name in _INTEGERS:
        if name in schema:
            value = schema[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
                raise GrammarError(f"{where}: {name} must be an integer of at least 0, not {value!r}.")
            schema[name] = int(value)


def _old_forms(schema: dict[str, Any], where: str) -> None:
    """Forms of drafts 4 to 7: positional `items`, exclusive bounds as flags, `id`."""
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema.pop("additionalItems")
    schema.pop("additionalItems", None)
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(flag), bool) and schema.pop(flag) and bound in schema:
            schema[flag] = schema.pop(bound)
    if "id" in schema and "$id" not in schema and isinstance(schema["id"], str) and "$schema" in schema:
        schema["$id"] = schema.pop("id")


def _numbers(schema: dict[str, Any], where: str) -> None:
    name = schema.get("format")
    types = _types(schema)
    if name not in _NUMBER_FORMATS or not types or types - {"integer", "number", "null"}:
        return
    del schema["format"]
    bounds = _NUMBER_FORMATS[name]
    if bounds is not None:
        for key, value, pick in (("minimum", bounds[0], max), ("maximum", bounds[1], min)):
            schema[key] = pick(schema[key], value) if isinstance(schema.get(key), int | float) else value


def _texts(schema: dict[str, Any], where: str) -> None:
    """Patterns and formats of strings."""
    pattern = schema.get("pattern")
    if pattern in _KNOWN_PATTERNS:
        schema["pattern"] = _KNOWN_PATTERNS[pattern]
    elif isinstance(pattern, str):
        schema["pattern"] = schema_regex(pattern)
    elif pattern is not None:
        raise GrammarError(f"{where}: pattern must be a text.")
    if schema.get("contentEncoding") == "base64":
        _add_pattern(schema, f"^{BASE64}$")
    name = schema.get("format")
    types = _types(schema)
    if name is None or (name in _NUMBER_FORMATS and types and not types - {"integer", "number", "null"}):
        return
    if types and "string" not in types:
        del schema["format"]  # formats are of strings
        return
    if not isinstance(name, str):
        raise GrammarError(f"{where}: format must be a text.")
    name = _NARROWER.get(name, name)
    if name in _ANY_TEXT:
        del schema["format"]
    elif name in FORMAT_PATTERNS:
        del schema["format"]
        _add_pattern(schema, FORMAT_PATTERNS[name])
    elif name in _KNOWN_FORMATS:
        schema["format"] = name
    else:
        raise GrammarError(f"{where}: the format {schema['format']!r} is not supported.")


def _add_pattern(schema: dict[str, Any], pattern: str) -> None:
    if "pattern" in schema:
        schema["allOf"] = [*schema.get("allOf", []), {"pattern": pattern}]
    else:
        schema["pattern"] = pattern


def _types(schema: Mapping[str, Any]) -> set[str]:
    value = schema.get("type", [])
    return {value} if isinstance(value, str) else {t for t in value if isinstance(t, str)}


def _map_sizes(schema: dict[str, Any], where: str) -> None:
    """A name that comes twice is one property for a reader: names that are not listed cannot be counted."""
    least = schema.get("minProperties", 0)
    required = len(set(schema.get("required", ())))
    if least <= max(1, required):
        return
    if schema.get("additionalProperties", True) is not False or schema.get("patternProperties"):
        raise GrammarError(
            f"{where}: 'minProperties' of {least} is not supported where names are not listed in 'properties', "
            "since nothing keeps a name from coming twice."
        )
