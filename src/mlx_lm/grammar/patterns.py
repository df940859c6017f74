"""Regular expressions: from Python's `re` syntax to llguidance's, and the patterns of JSON Schema formats.

Contract: what a translated pattern matches, Python's `re.fullmatch` matches too. `\\d` becomes 0 to 9. What cannot be
said without look-around is left as it is; the compiler refuses it by name.

Sources: RFC 3339 (dates and times, without leap seconds), RFC 6901 (JSON pointer), RFC 4648 (base64).
"""

from __future__ import annotations

import re

from mlx_lm.errors import GrammarError

__all__ = [
    "BASE64",
    "DATE",
    "DATE_TIME",
    "FORMAT_PATTERNS",
    "TIME",
    "lark_regex",
    "lark_string",
    "python_regex",
    "schema_regex",
]

_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_MONTH_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
DATE = rf"(?:{_YEAR}-{_MONTH_DAY}|{_LEAP_YEAR}-02-29)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_OFFSET = r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
TIME = rf"{_CLOCK}{_OFFSET}?"
DATE_TIME = rf"{DATE}[T ]{_CLOCK}{_OFFSET}?"
BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"

# Python's classes where those of llguidance differ: its word characters have combining marks, its blanks lack some.
_CLASSES = {
    "\\d": "0-9",
    "\\w": r"\p{L}\p{N}_",
    "\\W": r"[^\p{L}\p{N}_]",
    "\\S": r"[^\s\x1c-\x1f]",
}

# Formats of string values that are enforced by a pattern of ours; the compiler knows others itself.
FORMAT_PATTERNS = {
    "date": f"^{DATE}$",
    "time": f"^{_CLOCK}{_OFFSET}$",
    "date-time": f"^{DATE}T{_CLOCK}{_OFFSET}$",
    "json-pointer": f"^{_POINTER}$",
    "relative-json-pointer": f"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",
    "byte": f"^{BASE64}$",
    "base64": f"^{BASE64}$",
}


def python_regex(pattern: str) -> str:
    """A pattern of Python's `re`, with what llguidance reads otherwise rewritten. Raises GrammarError."""
    try:
        with _no_warnings():
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise GrammarError(f"The regular expression {pattern[:100]!r} is malformed: {error}") from error
    out: list[str] = []
    at, in_class = 0, ""
    while at < len(pattern):
        piece, at, in_class = _translate(pattern, at, in_class)
        out.append(piece)
    return "".join(out)


def schema_regex(pattern: str) -> str:
    """A pattern of JSON Schema (ECMA 262), where `\\S` leaves out one character more than in llguidance."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\\S(?![^\[]*\])", r"\1[^\\s\\x{FEFF}]", pattern)


def _no_warnings():
    import warnings

    return warnings.catch_warnings(action="ignore", category=FutureWarning)


def _translate(pattern: str, at: int, in_class: str) -> tuple[str, int, str]:
    """One piece of the pattern: (its translation, where the next begins, the bracket that it is inside, or none)."""
    two, character = pattern[at : at + 2], pattern[at]
    if character == "\\":
        if two in _CLASSES and not (two == "\\d" and in_class == "[^"):  # without digits: those of all scripts
            inside = _CLASSES[two]
            return (inside if in_class else f"[{inside}]"), at + 2, in_class
        if two in ("\\A", "\\Z") and not in_class:
            return ("^" if two == "\\A" else "$"), at + 2, ""
        return two, at + 2, in_class
    if in_class:
        if character == "]":
            return "]", at + 1, ""
        if character == "[" or two in ("&&", "--", "~~"):  # no nested classes and set operations in Python
            return "\\" + character, at + 1, in_class
        return character, at + 1, in_class
    if character == "[":
        opening = re.compile(r"(\[\^?)(\]?)").match(pattern, at)
        assert opening is not None
        return opening.group().replace("]", "\\]"), opening.end(), opening.group(1)
    if two == "{,":
        return "{0,", at + 2, ""
    return character, at + 1, ""


def lark_regex(pattern: str) -> str:
    """A pattern as a Lark terminal: `/.../`."""
    out: list[str] = []
    escaped = False
    for character in pattern:
        if character == "\n":
            out.append("n" if escaped else "\\n")
        elif character == "/" and not escaped:
            out.append("\\/")
        else:
            out.append(character)
        escaped = character == "\\" and not escaped
    return "/" + "".join(out) + "/"


def lark_string(text: str) -> str:
    """A text as a Lark terminal that matches nothing else."""
    return lark_regex(re.sub(r"[^A-Za-z0-9 ]", _escape, text)) if text else '""'


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character == "_":
        return character
    if character.isascii() and character.isprintable() and character not in "<>":  # those would be word boundaries
        return "\\" + character
    return f"\\u{{{ord(character):X}}}"
