"""JSON Schema keywords that are said with others: dependencies, property names, unique items, `not`.

Contract: each function takes its keyword out of the schema (a dict, changed in place) and gives schemas to be added to
its `allOf`, or refuses it with a GrammarError. What is given accepts nothing that the keyword would not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from mlx_lm.errors import GrammarError

__all__ = ["evaluated_names", "exclusive", "names_rule", "negation", "permutations", "required_rules"]

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_MAX_UNIQUE = 5
_MAX_DEPENDENCIES = 6
_MAX_NESTED = 16
_CONDITIONAL = ("anyOf", "oneOf", "if", "dependentSchemas", "patternProperties", "additionalProperties")
_Resolve = Callable[[Any], Any]


def required_rules(schema: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """`dependentRequired`, `dependentSchemas` and `dependencies`: either the property is absent, or they hold."""
    rules: list[dict[str, Any]] = []
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        entries = schema.pop(keyword, None)
        if entries is None:
            continue
        if not isinstance(entries, Mapping):
            raise GrammarError(f"{where}: {keyword} must be an object.")
        for name, needed in entries.items():
            if needed is True or needed == [] or needed == {}:
                continue
            absent: dict[str, Any] = {"properties": {name: False}, "additionalProperties": True}
            if needed is False:
                rules.append(absent)
                continue
            then = (
                {"required": [name, *needed]} if isinstance(needed, list) else {"allOf": [needed], "required": [name]}
            )
            rules.append({"anyOf": [absent, then]})
    if len(rules) > _MAX_DEPENDENCIES:
        raise GrammarError(f"{where}: more than {_MAX_DEPENDENCIES} dependencies between properties.")
    return rules


def names_rule(schema: dict[str, Any], where: str, resolve: _Resolve) -> list[dict[str, Any]]:
    """`propertyNames`: a list of names, or a pattern, becomes the properties that there can be."""
    names = resolve(schema.pop("propertyNames", True))
    if names is True or names == {} or names == {"type": "string"}:
        return []
    if schema.get("patternProperties") or not isinstance(names, Mapping):
        raise GrammarError(f"{where}: 'propertyNames' is not supported here.")
    rest = schema.get("additionalProperties", True)
    listed = names.get("enum", [names["const"]] if "const" in names else None)
    known = dict(schema.get("properties", {}))
    if listed is not None and set(names) <= {"enum", "const", "type", "title", "description"}:
        allowed = [name for name in listed if isinstance(name, str)]
        schema["properties"] = {name: value if name in allowed else False for name, value in known.items()}
        for name in allowed:
            schema["properties"].setdefault(name, rest)
        schema["additionalProperties"] = False
        return []
    if set(names) <= {"pattern", "type", "title", "description"} and "pattern" in names and not known:
        schema["patternProperties"] = {names["pattern"]: rest}
        schema["additionalProperties"] = False
        return []
    raise GrammarError(f"{where}: 'propertyNames' is supported with an enum or, without 'properties', a pattern only.")


def permutations(schema: dict[str, Any], where: str, resolve: _Resolve) -> None:
    """`uniqueItems`: all orders of the few values that the items can have."""
    if schema.get("uniqueItems", False) is False or schema.get("maxItems", 2) <= 1:
        schema.pop("uniqueItems", None)
        return
    items = resolve(schema.get("items"))
    values: list[Any] | None = None
    if isinstance(items, Mapping) and not schema.get("prefixItems"):
        values = [items["const"]] if "const" in items else items.get("enum")
        if items.get("type") == "boolean":
            values = [True, False]
    if not isinstance(values, list) or len(values) > _MAX_UNIQUE or schema.get("type") != "array":
        raise GrammarError(
            f"{where}: 'uniqueItems' is supported for arrays of an enum of at most {_MAX_UNIQUE} values only."
        )
    most = min(schema.pop("maxItems", len(values)), len(values))
    least = schema.pop("minItems", 0)
    if least > most:
        raise GrammarError(f"{where}: 'minItems' of {least} asks for more than the {most} different items there are.")
    for keyword in ("uniqueItems", "items", "type"):
        schema.pop(keyword, None)
    orders = [list(one) for n in range(least, most + 1) for one in itertools.permutations(values, n)]
    schema["enum"] = [one for one in schema["enum"] if one in orders] if "enum" in schema else orders


def negation(schema: dict[str, Any], where: str) -> list[Any]:
    """`not`: of nothing, of everything, and of types; the rest is refused."""
    if "not" not in schema:
        return []
    value = schema.pop("not")
    if value is False:
        return []
    if value is True or value == {}:
        raise GrammarError(f"{where}: 'not' excludes every value.")
    if isinstance(value, Mapping) and set(value) == {"type"}:
        excluded = {value["type"]} if isinstance(value["type"], str) else set(value["type"])
        left = [t for t in _TYPES if t not in excluded and not (t == "integer" and "number" in excluded)]
        if "integer" not in excluded or "number" in excluded:
            return [{"type": left}]
    raise GrammarError(f"{where}: the JSON Schema keyword 'not' is supported for types only.")


def exclusive(schema: dict[str, Any], resolve: _Resolve) -> list[Any]:
    """`oneOf` of schemas that no value can match twice, by its type or by a tag: `anyOf` says the same."""
    branches = schema.get("oneOf")
    if not isinstance(branches, list) or not branches:
        return []
    seen = [resolve(one) for one in branches]
    if not all(isinstance(one, Mapping) for one in seen):
        return []
    if not (_disjoint([_type_set(one) for one in seen]) or _tagged(seen, resolve)):
        return []
    return [{"anyOf": schema.pop("oneOf")}]


def _type_set(schema: Mapping[str, Any]) -> set[Any] | None:
    value = schema.get("type")
    types = {value} if isinstance(value, str) else set(value) if isinstance(value, list) else None
    return None if types is None else types | ({"integer"} if "number" in types else set())


def _tagged(schemas: list[Any], resolve: _Resolve) -> bool:
    """Whether all require one property that has different constants in each; they must be objects."""
    if not all(one.get("type") == "object" and isinstance(one.get("required"), list) for one in schemas):
        return False
    common = set.intersection(*(set(map(str, one["required"])) for one in schemas))
    return any(_disjoint([_constants(one, name, resolve) for one in schemas]) for name in common)


def _constants(schema: Mapping[str, Any], name: str, resolve: _Resolve) -> set[Any] | None:
    properties = schema.get("properties")
    value = resolve(properties.get(name)) if isinstance(properties, Mapping) else None
    if not isinstance(value, Mapping):
        return None
    values = [value["const"]] if "const" in value else value.get("enum")
    return set(values) if isinstance(values, list) and all(isinstance(one, str) for one in values) else None


def _disjoint(sets: list[set[Any] | None]) -> bool:
    found = [one for one in sets if one is not None]
    return len(found) == len(sets) and sum(map(len, found)) == len(set().union(*found))


def evaluated_names(schema: Mapping[str, Any], resolve: _Resolve, depth: int = 0) -> list[str] | None:
    """The property names that `properties` here and in what always applies in place know; None where that is open."""
    if depth > _MAX_NESTED or any(key in schema for key in _CONDITIONAL):
        return None
    names = list(schema.get("properties", ()))
    parts = [*schema.get("allOf", ()), *([resolve({"$ref": schema["$ref"]})] if "$ref" in schema else [])]
    for part in parts:
        part = resolve(part)
        found = evaluated_names(part, resolve, depth + 1) if isinstance(part, Mapping) else []
        if found is None or (isinstance(part, Mapping) and "$ref" in part and resolve(part) is part):
            return None
        names += found
    return list(dict.fromkeys(names))
