"""Strings of a schema as free text, and JSON whose strings keep clear of a text: for values between tags.

Contract: `string_text` gives the terminal of a string schema's texts; `keep_clear` narrows a schema to JSON in which no
string and no key contains a text, so that a closing tag is the first there is. Everything that the results accept, the
given schema accepts. Keywords that cannot be kept are refused by name.

Sources of the formats, all narrower than they are: RFC 3339 (duration), RFC 5321 (email), RFC 1123 (hostname),
RFC 4291 (IPv6), RFC 3986 (URI).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ...errors import UnsupportedError
from ...grammar.patterns import lark_regex

__all__ = ["keep_clear", "string_text"]

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*\.[A-Za-z]{{2,12}}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEX = "[0-9a-fA-F]{1,4}"
_FORMATS = {
    "duration": "P(?:[0-9]{1,4}[YMWD]|T[0-9]{1,4}[HMS]|[0-9]{1,4}DT[0-9]{1,4}H)",
    "email": rf"[A-Za-z0-9_+-]{{1,30}}(?:\.[A-Za-z0-9_+-]{{1,30}})*@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_OCTET}(?:\.{_OCTET}){{3}}",
    "ipv6": rf"(?:{_HEX}:){{7}}{_HEX}|(?:{_HEX}(?::{_HEX}){{0,2}})?::(?:{_HEX}(?::{_HEX}){{0,2}})?",
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "uri": rf"[A-Za-z][A-Za-z0-9+.-]{{0,15}}://{_HOST}(?::[0-9]{{1,4}})?(?:[/?](?:[A-Za-z0-9_.~!$'()*,;=:@&/-]|%[0-9A-F]{{2}})*)?",
}
_COMBINING = ("anyOf", "oneOf", "not", "$ref", "if", "enum", "const")
_ANY = "x-any-clear"


def string_text(schema: Mapping[str, Any], where: str) -> str:
    """The strings that a prepared schema accepts, as a terminal's expression. Raises UnsupportedError."""
    for key in _COMBINING:
        if key in schema:
            raise UnsupportedError(f"{where}: {key!r} of texts cannot be enforced in this model's calls.")
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is not None and most < least:
        raise UnsupportedError(f"{where}: maxLength is less than minLength.")
    terms = [f"/(?s:.){{{least},{'' if most is None else most}}}/" if least or most is not None else "/(?s:.)*/"]
    patterns = [schema["pattern"]] if "pattern" in schema else []
    for one in schema.get("allOf", ()):
        if not isinstance(one, Mapping) or set(one) - {"pattern", "type", "title", "description"}:
            raise UnsupportedError(f"{where}: 'allOf' of texts cannot be enforced in this model's calls.")
        patterns += [one["pattern"]] if "pattern" in one else []
    if schema.get("format") in _FORMATS:
        patterns.append(f"^(?:{_FORMATS[schema['format']]})$")
    elif "format" in schema:
        raise UnsupportedError(f"{where}: the format {schema['format']!r} cannot be enforced in this model's calls.")
    return " & ".join(terms + [lark_regex(_searched(pattern)) for pattern in patterns])


def _searched(pattern: str) -> str:
    """A pattern that matches whole texts in which `pattern` is found."""
    whole = []
    for branch in _branches(pattern):
        head = "" if branch.startswith("^") else "(?s:.)*"
        ended = bool(re.search(r"(?<!\\)(?:\\\\)*\$$", branch))
        body = branch.removeprefix("^")
        whole.append(f"{head}(?:{body[:-1] if ended else body}){'' if ended else '(?s:.)*'}")
    return "|".join(whole)


def _branches(pattern: str) -> list[str]:
    """The alternatives of a pattern at its top level."""
    parts, depth, in_class, at = [""], 0, False, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            parts[-1] += pattern[at : at + 2]
            at += 2
            continue
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        at += 1
        if character == "|" and not depth and not in_class:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def keep_clear(schema: Any, text: str, where: str) -> dict[str, Any]:
    """A prepared schema (a dict or True) narrowed to JSON whose strings do not contain `text`.

    A longer beginning of `text` may be avoided too. Raises UnsupportedError for constants that contain it.
    """
    needle = text[: text.index(text[0], 1)] if text[0] in text[1:] else text
    clear = f"^{_without(needle)}$"
    narrowed = _Clearing(needle, clear, where).schema(schema)
    inner = {"$ref": f"#/$defs/{_ANY}"}
    whole = {
        "anyOf": [
            {"type": ["null", "boolean", "number"]},
            {"type": "string", "pattern": clear},
            {"type": "array", "items": inner},
            {"type": "object", "patternProperties": {clear: inner}, "additionalProperties": False},
        ]
    }
    return {**narrowed, "$defs": {**narrowed.get("$defs", {}), _ANY: whole}}


def _without(needle: str) -> str:
    """Texts without `needle`, whose first character comes once in it: so a failed beginning is none of another."""
    first, rest = re.escape(needle[0]), needle[1:]
    if not rest:
        return f"[^{_in_class(needle[0])}]*"
    leave, again, end = "", "", ""
    for character in reversed(rest):
        inner = re.escape(character)
        last = character == rest[-1] and not leave
        other = f"[^{_in_class(needle[0])}{_in_class(character)}]"
        leave = other if last else f"(?:{other}|{inner}{leave})"
        again = first if last else f"(?:{first}|{inner}{again})"
        end = "" if last else f"(?:{inner}{end})?"
    return f"(?:[^{_in_class(needle[0])}]|{first}{again}*{leave})*(?:{first}{again}*{end})?"


def _in_class(character: str) -> str:
    return f"\\{character}" if character in r"\]^-[&~" else character


class _Clearing:
    """Walks a prepared schema."""

    def __init__(self, needle: str, clear: str, where: str) -> None:
        self._needle = needle
        self._clear = clear
        self._where = where

    def schema(self, schema: Any) -> Any:
        if schema is False:
            return False
        if schema is True or not any(key for key in schema if key not in ("title", "description", "default")):
            return {"$ref": f"#/$defs/{_ANY}"}
        new = dict(schema)
        for key in ("$defs", "definitions"):
            if key in new:
                new[key] = {name: self.schema(value) for name, value in new[key].items()}
        if "enum" in new or "const" in new:
            if self._needle in json.dumps([new.get("enum"), new.get("const")], ensure_ascii=False):
                raise UnsupportedError(
                    f"{self._where}: values with {self._needle!r} cannot stand in this model's calls."
                )
            return new
        if "$ref" in new:
            return new
        for key in ("anyOf", "oneOf", "allOf"):
            if key in new:
                new[key] = [self.schema(one) for one in new[key]]
        if any(key in new for key in ("anyOf", "oneOf", "allOf")) and "type" not in new:
            return new  # every value keeps to one of them, and they are clear
        kinds = new.get("type", ["null", "boolean", "number", "string", "array", "object"])
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        if "string" in kinds:
            self._strings(new)
        if "array" in kinds:
            new["items"] = self.schema(new.get("items", True))
            if "prefixItems" in new:
                new["prefixItems"] = [self.schema(one) for one in new["prefixItems"]]
        if "object" in kinds:
            self._objects(new)
        return new

    def _strings(self, new: dict[str, Any]) -> None:
        if "pattern" in new or "format" in new:
            new["allOf"] = [*new.get("allOf", ()), {"pattern": self._clear}]
        else:
            new["pattern"] = self._clear

    def _objects(self, new: dict[str, Any]) -> None:
        """Names that are not listed are clear too: by a pattern, or by leaving them out where others are listed."""
        listed = {name: self.schema(value) for name, value in new.get("properties", {}).items()}
        rest = self.schema(new.get("additionalProperties", True))
        for name in new.get("required", ()):
            listed.setdefault(name, rest)
        if any(self._needle in name for name in new.get("required", ())):
            raise UnsupportedError(f"{self._where}: names with {self._needle!r} cannot stand in this model's calls.")
        patterns = new.get("patternProperties")
        if patterns:
            raise UnsupportedError(f"{self._where}: 'patternProperties' cannot be enforced in this model's calls.")
        if not listed and rest is not False:
            new["patternProperties"] = {self._clear: rest}
        elif listed:
            new["properties"] = {name: value for name, value in listed.items() if self._needle not in name}
        new["additionalProperties"] = False
