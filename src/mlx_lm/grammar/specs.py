"""What a caller asks the output to be: `JsonSchema`, `Regex`, `Choice`, `CFG`. Python types are taken as they are.

Contract: a spec holds the text of its definition, nothing compiled; it is checked when it is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CFG", "Choice", "JsonSchema", "Regex", "Spec"]


@dataclass(frozen=True)
class JsonSchema:
    """JSON that a schema accepts.

    Attributes:
        schema: a JSON Schema (2020-12, 2019-09, 7, 6 or 4) as a dict, as text, or as a pydantic model class.
        compact: no whitespace between the values; otherwise one space, or a line break with an indentation, may stand
            wherever JSON allows whitespace.
        closed: objects that list their properties have no others, unless they say what others may be.
    """

    schema: Mapping[str, Any] | str | bool | type
    compact: bool = False
    closed: bool = True


@dataclass(frozen=True)
class Regex:
    """Text that a regular expression matches as a whole.

    Syntax as Python's `re` without look-around, word boundaries and back-references; `\\d` is 0 to 9.
    """

    pattern: str


@dataclass(frozen=True)
class Choice:
    """One of these texts."""

    options: tuple[str, ...]

    def __init__(self, options: Any) -> None:
        object.__setattr__(self, "options", (options,) if isinstance(options, str) else tuple(options))


@dataclass(frozen=True)
class CFG:
    """Text of a context-free grammar, in Lark's syntax (`start: ...`) or as EBNF/GBNF (`root ::= ...`).

    Attributes:
        start: another rule to begin with.
        folder: where `%import .name` of a Lark grammar finds `name.lark`; None refuses such imports. Never a folder
            that the author of an untrusted grammar should not read.
    """

    grammar: str
    start: str = "start"
    folder: str | os.PathLike[str] | None = None


Spec = JsonSchema | Regex | Choice | CFG
