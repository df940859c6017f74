"""Lark grammars as llguidance reads them: imports resolved, templates expanded, terminals rewritten.

Contract: `expand_lark` gives a grammar that accepts nothing which the given one does not. Names become `r0`, `T0`, ...
Terminals that are only declared come from a program beside the grammar: what needs them is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.lark_modules import Imports, Module
from mlx_lm.grammar.lark_syntax import Node, NotPlainLark, read_lark
from mlx_lm.grammar.terminals import EMPTY, Pattern, caseless, emit, pattern_of_regex, range_of, resolve

__all__ = ["expand_lark"]

MAX_RULES = 20_000
MAX_CHARACTERS = 2_000_000
_ROUNDS = 50


def expand_lark(text: str, start: str, folder: Path | None) -> str:
    """The grammar in llguidance's Lark. Raises GrammarError, or NotPlainLark where it is not in Lark's own language."""
    try:
        main = Module(read_lark(text), folder, Imports())
        if start not in main.text.defined and start not in main.text.imports:
            raise GrammarError(f"The grammar has no start rule {start!r}.")
        expansion = _Expansion()
        first = expansion.symbol(main, start, ())
        return expansion.grammar(first, [expansion.terminal(main, node) for node in main.text.ignored])
    except RecursionError as error:
        raise GrammarError("The grammar is nested too deeply.") from error


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


class _Expansion:
    """Rules as ("alt" | "seq", [nodes]), ("rep", node, low, high) and ("symbol", name); terminals as their bodies."""

    def __init__(self) -> None:
        self._symbols: dict[Any, str] = {}
        self._rules: dict[str, Node] = {}
        self._terminals: dict[str | None, str] = {}  # by body; None for what matches nothing
        self._size = 0
        self._patterns: dict[Any, Pattern | None] = {}
        self._waiting: list[tuple[str, Module, str, tuple[str, ...]]] = []

    def symbol(self, module: Module, name: str, arguments: tuple[str, ...]) -> str:
        """The name of a rule or terminal in the result."""
        key = (module.place(name), arguments)
        if key not in self._symbols:
            if _is_terminal(name):
                if arguments:
                    raise GrammarError(f"The terminal {name} is a template, which is not supported.")
                self._symbols[key] = self._terminal(self._named(module, name), name)
            else:
                self._symbols[key] = f"r{len(self._rules)}"
                self._rules[self._symbols[key]] = EMPTY
                self._waiting.append((self._symbols[key], module, name, arguments))
                if len(self._rules) > MAX_RULES:
                    raise GrammarError(f"The grammar has more than {MAX_RULES:,} rules with its templates expanded.")
        return self._symbols[key]

    def anonymous(self, module: Module, node: Node, bound: dict[str, str]) -> str:
        """The symbol of an expression."""
        if node[0] == "name":
            return bound.get(node[1]) or self.symbol(module, node[1], ())
        if node[0] in ("text", "regex", "range"):
            return self._terminal(self._pattern(module, node), repr(node[1]))
        found = self._node(module, node, bound)
        if found[0] == "symbol":
            return found[1]
        key = repr(found)
        if key not in self._symbols:
            self._symbols[key] = f"r{len(self._rules)}"
            self._rules[self._symbols[key]] = found
        return self._symbols[key]

    def terminal(self, module: Module, node: Node) -> str:
        """The symbol of an expression of terminals."""
        return self._terminal(self._pattern(module, node), "of %ignore")

    def _terminal(self, pattern: Pattern | None, name: str) -> str:
        resolved = None if pattern is None else resolve(pattern, name)
        body = None if resolved is None else emit(resolved)
        if body not in self._terminals:
            self._count(len(body or ""))
            self._terminals[body] = f"T{len(self._terminals)}"
        return self._terminals[body]

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_CHARACTERS:
            raise GrammarError("The terminals of the grammar are too large.")

    def _named(self, module: Module, name: str) -> Pattern | None:
        """The pattern of a terminal; None for one that is only declared."""
        key = module.place(name)
        if key in self._patterns:
            if self._patterns[key] == ("unfinished",):
                raise GrammarError(f"The terminal {name} contains itself.")
            return self._patterns[key]
        self._patterns[key] = ("unfinished",)
        found = module.find(name)
        if any(definition.parameters for _, definition in found):
            raise GrammarError(f"The terminal {name} is a template, which is not supported.")
        options = [self._pattern(place, definition.body) for place, definition in found]
        kept = [one for one in options if one is not None]
        self._patterns[key] = ("alt", kept) if kept else None
        self._count(len(str(self._patterns[key])))
        return self._patterns[key]

    def _pattern(self, module: Module, node: Node) -> Pattern | None:
        kind = node[0]
        if kind == "name":
            if not _is_terminal(node[1]):
                raise GrammarError(f"A terminal uses the rule {node[1]}, which is not allowed.")
            return self._named(module, node[1])
        if kind == "text":
            return caseless(node[1]) if node[2] else ("text", node[1])
        if kind == "range":
            return range_of(node[1], node[2])
        if kind == "regex":
            try:
                return pattern_of_regex(node[1], node[2])
            except (re.error, OverflowError, RecursionError) as error:
                raise NotPlainLark(f"/{node[1][:60]}/: {error}") from error
        if kind == "rep":
            inner = self._pattern(module, node[1])
            if inner is None:
                return EMPTY if node[2] == 0 else None
            return ("rep", inner, node[2], node[3])
        if kind == "call":
            raise GrammarError(f"A terminal uses the template {node[1]}, which is not supported.")
        parts = [self._pattern(module, one) for one in node[1]]
        if kind == "seq":
            return None if None in parts else ("seq", parts)
        kept = [one for one in parts if one is not None]
        return ("alt", kept) if kept else None

    def _node(self, module: Module, node: Node, bound: dict[str, str]) -> Node:
        kind = node[0]
        if kind in ("alt", "seq"):
            return (kind, [self._node(module, one, bound) for one in node[1]])
        if kind == "rep":
            return ("rep", self._node(module, node[1], bound), node[2], node[3])
        if kind == "call":
            arguments = tuple(self.anonymous(module, one, bound) for one in node[2])
            return ("symbol", self.symbol(module, node[1], arguments))
        return ("symbol", self.anonymous(module, node, bound))

    def _expand(self) -> None:
        while self._waiting:
            symbol, module, name, arguments = self._waiting.pop()
            options: list[Node] = []
            for place, definition in module.find(name):
                if len(definition.parameters) != len(arguments):
                    raise GrammarError(f"The template {name} takes {len(definition.parameters)} parameters.")
                bound = dict(zip(definition.parameters, arguments, strict=True))
                options.append(self._node(place, definition.body, bound))
            self._rules[symbol] = ("alt", options)

    def grammar(self, start: str, ignored: list[str]) -> str:
        """The text for llguidance. Raises GrammarError where nothing is accepted."""
        self._expand()
        known = {symbol for body, symbol in self._terminals.items() if body is not None}
        waiting = list(self._rules)
        for _ in range(_ROUNDS):
            waiting.reverse()  # rules mostly use later ones
            before = len(known)
            for name in waiting:
                if _kept(self._rules[name], known) is not None:
                    known.add(name)
            waiting = [name for name in waiting if name not in known]
            if len(known) == before:
                break
        else:
            raise GrammarError("The rules of the grammar are nested too deeply.")
        if start not in known:
            raise GrammarError("The grammar accepts nothing.")
        lines = [f"start: {start}", *(f"%ignore {symbol}" for symbol in dict.fromkeys(ignored) if symbol in known)]
        for name, node in self._rules.items():
            if (kept := _kept(node, known)) is not None:
                lines.append(f"{name}: {_line(kept)}")
        lines += [f"{symbol}: {body}" for body, symbol in self._terminals.items() if body is not None]
        return "\n".join(lines) + "\n"


def _kept(node: Node, known: set[str]) -> Node | None:
    """A rule's body without what can match nothing at all; None where that is everything."""
    if node[0] == "symbol":
        return node if node[1] in known else None
    if node[0] == "rep":
        inner = _kept(node[1], known)
        if inner is None:
            return EMPTY if node[2] == 0 else None
        return ("rep", inner, node[2], node[3])
    parts = [_kept(one, known) for one in node[1]]
    if node[0] == "seq":
        return None if None in parts else ("seq", parts)
    kept = [one for one in parts if one is not None]
    return ("alt", kept) if kept else None


def _line(node: Node) -> str:
    if node[0] == "symbol":
        return node[1]
    if node[0] == "rep":
        sign = {(0, 1): "?", (0, None): "*", (1, None): "+"}.get(node[2:]) or f"{{{node[2]},{node[3]}}}"
        return f"({_line(node[1])}){sign}"
    if node[0] == "alt":
        return " | ".join(f"({_line(one)})" if one[0] == "alt" else _line(one) for one in node[1])
    return " ".join(f"({_line(one)})" if one[0] == "alt" else _line(one) for one in node[1]) or '""'
