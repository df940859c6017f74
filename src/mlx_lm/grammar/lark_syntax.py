"""Lark's grammar language as definitions: rules, terminals, templates, directives.

Contract: `read_lark` knows syntax alone; it resolves no name and opens no file. Aliases (`-> name`), priorities and the
marks `?` and `!` shape trees, not texts, and are dropped. What is not plain Lark (llguidance's `%json`, `%regex`,
special tokens, options) raises NotPlainLark.

Source: https://lark-parser.readthedocs.io/en/stable/grammar.html
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

__all__ = ["Definition", "LarkText", "Node", "NotPlainLark", "read_lark"]

# ("alt" | "seq", [nodes]), ("rep", node, low, high or None), ("text", text, ignore case), ("regex", pattern, flags),
# ("range", first, last), ("name", name), ("call", name, [nodes])
Node = tuple

_TOKENS = re.compile(
    r"""(?P<comment>(?://|\#)[^\n]*)|(?P<line>(?:\r?\n[ \t\f]*)+)|(?P<blank>[ \t\f]+)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?)|(?P<regex>/(?!/)(?:\\.|[^/\\\n])*/[imslux]*)
    |(?P<name>_*[^\W\d_]\w*(?!-[A-Za-z0-9_]))|(?P<number>[+-]?[0-9]+)|(?P<statement>%[a-z]+)
    |(?P<sign>->|\.\.|[?*+~|()\[\]{},:.!])""",
    re.VERBOSE,
)
_DEPTH = 200


class NotPlainLark(Exception):
    """The text is not in Lark's own language; the compiler may know it, or says what is wrong."""


@dataclass(frozen=True)
class Definition:
    """A rule or terminal, with the parameters of a template."""

    parameters: tuple[str, ...]
    body: Node


@dataclass(frozen=True)
class LarkText:
    """What a text defines. Imports: local name to (whether relative, path without the name, name there)."""

    defined: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, tuple[bool, tuple[str, ...], str]] = field(default_factory=dict)
    overrides: dict[str, Definition] = field(default_factory=dict)
    extensions: list[tuple[str, Definition]] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    ignored: list[Node] = field(default_factory=list)


def read_lark(text: str) -> LarkText:
    """The definitions of a text. Raises NotPlainLark."""
    reader = _Reader(_tokens(text + "\n"))
    while reader.kind:
        if not reader.take("line"):
            reader.statement()
    return reader.found


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise NotPlainLark(f"{text[at : at + 20]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind in ("comment", "blank") or (kind == "line" and found and found[-1][0] == "line"):
            continue
        if match.group() == "|" and found and found[-1][0] == "line":  # an alternative on the next line
            found.pop()
        found.append((match.group() if kind == "sign" else kind, match.group()))
    return found


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.found = LarkText()

    @property
    def kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def take(self, kind: str) -> str | None:
        if self.kind != kind:
            return None
        self._at += 1
        return self._tokens[self._at - 1][1]

    def need(self, kind: str) -> str:
        taken = self.take(kind)
        if taken is None:
            raise NotPlainLark(f"{kind} is expected, not {self.kind!r}")
        return taken

    def statement(self) -> None:
        word = self.take("statement")
        if word is None:
            name, definition = self._definition()
            if name in self.found.defined or name in self.found.imports:
                raise NotPlainLark(f"{name} is defined twice")
            self.found.defined[name] = definition
        elif word == "%ignore":
            self.found.ignored.append(self._alternatives())
        elif word == "%declare":
            while name := self.take("name"):
                self.found.declared.add(name)
        elif word == "%override":
            name, definition = self._definition()
            self.found.overrides[name] = definition
        elif word == "%extend":
            self.found.extensions.append(self._definition())
        elif word == "%import":
            self._import()
        else:
            raise NotPlainLark(word)
        self.need("line")

    def _definition(self) -> tuple[str, Definition]:
        while self.take("?") or self.take("!"):
            pass
        name = self.need("name")
        parameters: list[str] = []
        if self.take("{"):
            parameters.append(self.need("name"))
            while self.take(","):
                parameters.append(self.need("name"))
            self.need("}")
        if self.take("."):
            self.need("number")
        self.need(":")
        return name, Definition(tuple(parameters), self._alternatives())

    def _import(self) -> None:
        relative = bool(self.take("."))
        path = [self.need("name")]
        while self.take("."):
            path.append(self.need("name"))
        if self.take("("):
            names = [self.need("name")]
            while self.take(","):
                names.append(self.need("name"))
            self.need(")")
            for name in names:
                self.found.imports[name] = (relative, tuple(path), name)
        else:
            local = self.need("name") if self.take("->") else path[-1]
            self.found.imports[local] = (relative, tuple(path[:-1]), path[-1])

    def _alternatives(self) -> Node:
        self._depth += 1
        if self._depth > _DEPTH:
            raise NotPlainLark("nested too deeply")
        self.take("|")
        options = [self._sequence()]
        while self.take("|"):
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else ("alt", options)

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self.kind not in ("|", ")", "]", "}", ",", "line", "->", ""):
            parts.append(self._repeated())
        if self.take("->"):
            self.need("name")
        return parts[0] if len(parts) == 1 else ("seq", parts)

    def _repeated(self) -> Node:
        node = self._atom()
        for sign, low, high in (("?", 0, 1), ("*", 0, None), ("+", 1, None)):
            if self.take(sign):
                return ("rep", node, low, high)
        if self.take("~"):
            low = high = int(self.need("number"))
            if self.take(".."):
                high = int(self.need("number"))
            if not 0 <= low <= high:
                raise NotPlainLark(f"{low}..{high} is no number of repetitions")
            return ("rep", node, low, high)
        return node

    def _atom(self) -> Node:
        if self.take("("):
            node = self._alternatives()
            self.need(")")
            return node
        if self.take("["):
            node = self._alternatives()
            self.need("]")
            return ("rep", node, 0, 1)
        if (name := self.take("name")) is not None:
            return self._call(name) if self.take("{") else ("name", name)
        if (pattern := self.take("regex")) is not None:
            end = pattern.rindex("/")
            return ("regex", pattern[1:end], pattern[end + 1 :])
        first = self.need("text")
        if self.take(".."):
            ends = _text(first), _text(self.need("text"))
            if any(len(end) != 1 for end in ends) or ends[0] > ends[1]:
                raise NotPlainLark(f"{ends} is no range")
            return ("range", *ends)
        return ("text", _text(first), first.endswith("i"))

    def _call(self, name: str) -> Node:
        arguments = [self._alternatives()]
        while self.take(","):
            arguments.append(self._alternatives())
        self.need("}")
        return ("call", name, arguments)


def _text(literal: str) -> str:
    """What a string matches. Only some escapes mean a character; any other keeps its backslash."""
    inside = literal[1 : literal.rindex('"')]

    def escaped(match: re.Match[str]) -> str:
        piece = match.group()
        if piece[1] in '\\"':
            return piece[1]
        if piece[1] in "nftr" or len(piece) > 2:
            return ast.literal_eval(f'"{piece}"')
        if piece[1] in "Uux":
            raise NotPlainLark(literal)
        return piece

    return re.sub(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|.)", escaped, inside)
