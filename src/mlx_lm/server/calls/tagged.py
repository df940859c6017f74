"""Parameters that stand between tags, one after the other: strings as free text, other values as JSON.

Contract: `Tags.write` gives the expression of the parameters of one tool, in the order of the schema: required ones,
optional ones, and others where the schema allows them. What it accepts, the parser of the same tags reads as arguments
that the schema accepts: the parser tells by the schema whether a text is a string, and so does this module, with the
parser's own rules (`as_json`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UnsupportedError
from ...grammar.patterns import lark_regex, lark_string
from ...tokenizer.parsers.schema import ToolSchemas, as_json, types_of
from ..work import Tool
from .members import Members, members_of, resolve, with_definitions
from .rules import Rules
from .texts import keep_clear, string_text

__all__ = ["KIND", "NAME", "NAMES", "Tags"]

NAME = "\0"  # where a name stands in a text
KIND = "\1"  # where the kind of a value stands
NAMES = re.compile(r"[\w.\-:/]{1,120}")
_OTHER_NAME = "/[A-Za-z_][A-Za-z0-9_.-]{0,40}/"
_MAX_WAYS = 200
_NOT_STRINGS = ("null", "boolean", "number", "array", "object")
# What a parser may take for JSON, so that it is no string: see `as_json`.
_BLANK = r"[\s\x1c-\x1f]*"
_LIKE_JSON = rf"{_BLANK}(?:[\[{{(\"](?s:.)*|true|false|null|True|False|None|-?[0-9][0-9.eE+-]*){_BLANK}"


@dataclass(frozen=True)
class Tags:
    """Tags around a value.

    Attributes:
        opening, closing: the tags, with `NAME` and `KIND` in them.
        kinds: names of kinds for JSON's types, where the opening tag tells the kind: "string" and the others; "" is of
            those that are not listed. Without kinds, the tool's schema decides what a text is.
        lines: a value stands on lines of its own ("always"), may do so ("maybe"), or does not ("never").
        cdata: values are XML text.
        after: what follows each parameter.
        clear: what no value can contain; empty for the closing tag.
    """

    opening: str
    closing: str
    kinds: Mapping[str, str] | None = None
    lines: str = "never"
    cdata: bool = False
    after: str = ""
    clear: str = ""

    def write(self, rules: Rules, tool: Tool, loose: bool) -> str:
        """The expression of a tool's parameters; `loose` takes any. Raises UnsupportedError, GrammarError."""
        members = members_of(tool, loose=loose)
        schemas = ToolSchemas([tool.as_function()])
        parts = []
        for name, schema in members.properties.items():
            where = f"The parameter {name!r} of {tool.name!r}"
            if not NAMES.fullmatch(name):
                raise UnsupportedError(f"{where}: such a name cannot be written in this model's calls.")
            read = schemas.schema(tool.name, name) if name in schemas.names(tool.name) else {}
            one = _Value(rules, self, members, read, where).write(schema, name)
            parts.append(one if name in members.required else f"({one})?")
        if members.additional is not False and NAME not in self.closing:
            other = _Value(rules, self, members, {}, f"The other parameters of {tool.name!r}")
            parts.append(f"({other.write(members.additional, None)})*")
        return rules.rule(" ".join(parts) or '""')


@dataclass(frozen=True)
class _Value:
    """The value of one parameter; `read` is the schema by which the parser reads it."""

    rules: Rules
    tags: Tags
    members: Members
    read: Mapping[str, Any]
    where: str

    def write(self, schema: Any, name: str | None) -> str:
        """The parameter with its tags; without a name: any name that is not listed."""
        ways = [f"{self._opening(name, kind)} {value}" for kind, value in self._ways(schema, name)]
        return self.rules.rule(" | ".join(ways))

    def _opening(self, name: str | None, kind: str) -> str:
        text = self.tags.opening.replace(KIND, kind)
        if name is not None:
            return self.rules.text(text.replace(NAME, name))
        before, after = text.split(NAME)
        names = " & ".join([_OTHER_NAME, *(f"~{lark_string(one)}" for one in self.members.properties)])
        return f"{self.rules.text(before)} {self.rules.terminal(names)} {self.rules.text(after)}"

    def _ways(self, schema: Any, name: str | None) -> Iterator[tuple[str, str]]:
        """(kind, the value with its closing tag) of every way to write a value."""
        closing = self.tags.closing.replace(NAME, name or "") + self.tags.after
        strings, others = _Split(self.members.root, self.where).parts(schema)
        for one in strings:
            if "const" in one:
                yield self._kind("string"), self._constant(one["const"], closing)
            else:
                yield from ((self._kind("string"), text) for text in self._text(string_text(one, self.where), closing))
        if self.tags.kinds is None:
            if others:
                yield "", self._json(others[0] if len(others) == 1 else {"anyOf": others}, closing)
        else:
            for one in others:
                kinds = sorted(types_of(one))
                yield self._kind(kinds[0] if kinds else "object"), self._json(one, closing)

    def _kind(self, kind: str) -> str:
        kinds = self.tags.kinds
        return "" if kinds is None else kinds.get(kind, kinds[""])

    def _says_string(self) -> bool:
        """Whether every text is a string for the parser."""
        return self.tags.kinds is not None or types_of(self.read) == {"string"}

    def _text(self, content: str, closing: str) -> Iterator[str]:
        """Free text in the ways in which it can stand between tags."""
        rules = self.rules
        if not self._says_string():
            content = f"{content} & ~{lark_regex(_LIKE_JSON)}"
        avoid = (self.tags.clear or closing.rstrip(),)
        if self.tags.cdata:
            yield f"{rules.text('<![CDATA[')} {rules.until(content, ']]>')} {rules.text(closing)}"
            yield rules.until(f"{content} & /[^<&]*/", closing)
        elif self.tags.lines == "never":
            yield rules.until(content, closing, avoid)
        else:
            yield f'"\\n" {rules.until(content, chr(10) + closing, avoid)}'
        if self.tags.lines == "maybe":  # line breaks at the ends would not count
            yield rules.until(f"{content} & ~/\\n(?s:.)*/ & ~/(?s:.)*\\n/", closing, avoid)

    def _constant(self, text: str, closing: str) -> str:
        """One string, as the parser reads it back."""
        shown = text
        if not self._says_string() and as_json(text, self.read) != json.dumps(text, ensure_ascii=False):
            shown = json.dumps(text, ensure_ascii=False)
            if as_json(shown, self.read) != shown:
                raise UnsupportedError(f"{self.where}: the value {text!r} cannot be written in this model's calls.")
        if self.tags.cdata and re.search("[<&]", shown):
            if "]]>" in shown:
                raise UnsupportedError(f"{self.where}: the value {text!r} cannot be written in this model's calls.")
            shown = f"<![CDATA[{shown}]]>"
        elif closing.rstrip() in shown:
            raise UnsupportedError(f"{self.where}: the value {text!r} cannot be written in this model's calls.")
        if self.tags.lines == "never":
            return self.rules.text(shown + closing)
        lined = self.rules.text(f"\n{shown}\n{closing}")
        if self.tags.lines == "always" or shown != shown.strip("\n"):
            return lined
        return f"({lined} | {self.rules.text(shown + closing)})"

    def _json(self, schema: Mapping[str, Any], closing: str) -> str:
        """JSON in which nothing looks like the closing tag."""
        rules, whole = self.rules, with_definitions(schema, self.members.root, self.where)
        before, after, end = "", "", self.tags.clear or closing.rstrip()
        nested = not types_of(schema) or types_of(schema) & {"object", "array", "string"}
        if self.tags.cdata and nested:
            before, after, end = "<![CDATA[", "]]>", "]>"
        if nested and rules.is_plain(end):
            whole = keep_clear(whole, end, self.where)
        line = {"always": '"\\n"', "maybe": '"\\n"?', "never": ""}[self.tags.lines]
        return f"{line} {rules.text(before)} {rules.json(whole)} {line} {rules.text(after + closing)}"


class _Split:
    """Cuts a schema into schemas of strings (constants as {"const": text}) and schemas of other values."""

    def __init__(self, root: Mapping[str, Any], where: str) -> None:
        self._root = root
        self._where = where
        self._left = _MAX_WAYS

    def parts(self, schema: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        self._left -= 1
        if self._left < 0:
            raise UnsupportedError(f"{self._where}: more than {_MAX_WAYS} alternatives.")
        if schema is False:
            return [], []
        one = resolve(schema, self._root)
        kinds = one.get("type", ["string", *_NOT_STRINGS])
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        values = one.get("enum", [one["const"]] if "const" in one else None)
        if values is not None:
            texts = [{"const": value} for value in values if isinstance(value, str) and "string" in kinds]
            others = {**one, "enum": [value for value in values if not isinstance(value, str)]}
            others.pop("const", None)
            return texts, [others] if others["enum"] and set(kinds) - {"string"} else []
        branches = one.get("anyOf")
        if branches and not set(one) - {"anyOf", "title", "description", "default", "$defs"}:
            found = [self.parts(branch) for branch in branches]
            return [s for strings, _ in found for s in strings], [o for _, others in found for o in others]
        rest = [kind for kind in kinds if kind != "string"]
        strings = [{**one, "type": "string"}] if "string" in kinds else []
        if not rest:
            return strings, []
        return strings, [{**one, "type": rest[0] if len(rest) == 1 else rest} if strings else dict(schema)]
