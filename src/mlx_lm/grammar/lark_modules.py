"""Lark texts that import from one another: which definition a name stands for.

Contract: `%import .file` reads files below the folder of the importing text, and only where the caller named a folder.
A module without a dot is one of ours: `common`, `unicode`. `%override` and `%extend` change what all uses see.

Source: https://lark-parser.readthedocs.io/en/stable/grammar.html (what the common terminals match).
"""

from __future__ import annotations

from pathlib import Path

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.lark_syntax import Definition, LarkText, NotPlainLark, read_lark

__all__ = ["Imports", "Module"]

_MAX_FILE = 500_000
_MAX_IMPORTS = 100
_BUILT_IN = {
    "common": r"""
DIGIT: /[0-9]/
HEXDIGIT: /[0-9a-fA-F]/
INT: /[0-9]+/
SIGNED_INT: /[+-]?[0-9]+/
DECIMAL: /[0-9]+\.[0-9]*|\.[0-9]+/
_EXP: /[eE][+-]?[0-9]+/
FLOAT: INT _EXP | DECIMAL _EXP?
SIGNED_FLOAT: /[+-]?/ FLOAT
NUMBER: FLOAT | INT
SIGNED_NUMBER: /[+-]?/ NUMBER
ESCAPED_STRING: /"(?:[^"\\\n]|\\[^\n])*"/
LCASE_LETTER: /[a-z]/
UCASE_LETTER: /[A-Z]/
LETTER: /[A-Za-z]/
WORD: /[A-Za-z]+/
CNAME: /[A-Za-z_][A-Za-z0-9_]*/
WS_INLINE: /[ \t]+/
WS: /[ \t\f\r\n]+/
CR: /\r/
LF: /\n/
NEWLINE: /(?:\r?\n)+/
SH_COMMENT: /#[^\n]*/
CPP_COMMENT: /\/\/[^\n]*/
C_COMMENT: /\/\*(.|\n)*?\*\//
SQL_COMMENT: /--[^\n]*/
""",
    "unicode": r"""
WS_INLINE: /[ \t\xa0]+/
WS: /[ \t\xa0\f\r\n]+/
""",
}


class Imports:
    """How many files were read; importing in a circle ends here."""

    count = 0


class Module:
    """A text with the modules that it imports from; every import has a copy of its own, as overriding changes it."""

    def __init__(self, text: LarkText, folder: Path | None, imports: Imports) -> None:
        self.text, self._folder, self._imports = text, folder, imports
        self._modules: dict[tuple[bool, tuple[str, ...]], Module] = {}
        self.replaced: dict[str, tuple[Module, Definition]] = {}
        self.extended: dict[str, list[tuple[Module, Definition]]] = {}
        for name, definition in text.overrides.items():
            module, inner = self._owner(name)
            module.replaced[inner] = (self, definition)
        for name, definition in text.extensions:
            module, inner = self._owner(name)
            module.extended.setdefault(inner, []).append((self, definition))

    def _owner(self, name: str) -> tuple[Module, str]:
        if name in self.text.imports:
            relative, path, inner = self.text.imports[name]
            return self._module(relative, path)._owner(inner)
        if name not in self.text.defined and name not in self.text.declared:
            raise GrammarError(f"The grammar uses {name!r}, which is defined nowhere.")
        return self, name

    def find(self, name: str) -> list[tuple[Module, Definition]]:
        """The definitions of a name, each an alternative, with where they were written; none when only declared."""
        module, inner = self._owner(name)
        own = module.replaced.get(inner)
        if own is None and inner in module.text.defined:
            own = (module, module.text.defined[inner])
        return ([own] if own else []) + module.extended.get(inner, [])

    def place(self, name: str) -> tuple[int, str]:
        """What tells definitions apart."""
        module, inner = self._owner(name)
        return id(module), inner

    def _module(self, relative: bool, path: tuple[str, ...]) -> Module:
        if (relative, path) not in self._modules:
            self._modules[relative, path] = self._read(relative, path)
        return self._modules[relative, path]

    def _read(self, relative: bool, path: tuple[str, ...]) -> Module:
        name = ".".join(path)
        self._imports.count += 1
        if self._imports.count > _MAX_IMPORTS:
            raise GrammarError(f"The grammar imports more than {_MAX_IMPORTS} times, or in a circle (at {name}).")
        if not relative:
            if name not in _BUILT_IN:
                raise GrammarError(f"%import {name}: the modules are {' and '.join(_BUILT_IN)}.")
            return Module(read_lark(_BUILT_IN[name]), None, self._imports)
        if self._folder is None:
            raise GrammarError(f"%import .{name} asks for another file, which needs CFG(..., folder=...).")
        file = self._folder.joinpath(*path).with_suffix(".lark")
        try:
            text = file.read_text(encoding="utf-8")
            found = read_lark(text) if len(text) <= _MAX_FILE else None
        except (OSError, UnicodeDecodeError) as error:
            raise GrammarError(f"%import .{name}: the file {file} cannot be read.") from error
        except NotPlainLark as error:
            raise GrammarError(f"%import .{name}: the file {file} is not in Lark's language: {error}") from error
        if found is None:
            raise GrammarError(f"%import .{name}: the file {file} has more than {_MAX_FILE:,} characters.")
        return Module(found, file.parent, self._imports)
