"""Terminals of Lark grammars: Python's regular expressions and their compositions as llguidance's terminals.

Contract: what the result matches, the original matches. Look-around inside a terminal becomes intersection and
complement. A look-ahead that may read past the end of its terminal leaves out the texts whose validity would depend on
what follows. A lazy repetition ends at the first end there is. What has no such form is refused by name.

A pattern is a tuple: ("set", class), ("text", text), ("seq" | "alt", [patterns]), ("rep", pattern, low, high or None),
("lazy", same), ("look", ahead, negative, pattern), ("both", pattern, whether the second is negated, pattern).
"""

from __future__ import annotations

import re
import warnings
from re import _constants as code  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser as parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from mlx_lm.errors import GrammarError
from mlx_lm.grammar.patterns import lark_string

__all__ = ["EMPTY", "Pattern", "caseless", "emit", "pattern_of_regex", "range_of", "resolve"]

Pattern = tuple
EMPTY: Pattern = ("seq", [])
ANY: Pattern = ("set", r"(?s:.)")
_FLAGS = {"i": re.I, "m": re.M, "s": re.S, "u": re.U, "x": re.X}
_WORD = r"\p{L}\p{N}_"
_KNOWN = rf"[{_WORD}&&\p{{Age:13.0}}]"  # letters that every supported Python knows
# Python's categories, and the same where a class excludes them: there more is excluded.
_CATEGORIES: dict[Any, tuple[str, str]] = {
    code.CATEGORY_DIGIT: ("0-9", r"\p{Nd}"),
    code.CATEGORY_NOT_DIGIT: (r"\P{Nd}", r"\P{Nd}"),
    code.CATEGORY_SPACE: (r"\s", r"\s\x1c-\x1f"),
    code.CATEGORY_NOT_SPACE: (r"[^\s\x1c-\x1f]", r"\S"),
    code.CATEGORY_WORD: (_KNOWN, rf"\w{_WORD}"),
    code.CATEGORY_NOT_WORD: (rf"[^\w{_WORD}]", f"[^{_KNOWN}]"),
}
_NO_LIMIT = 10**6


def pattern_of_regex(regex: str, flags: str) -> Pattern:
    """A regular expression of Python's. Raises GrammarError, or re.error when it is not Python's syntax."""
    if "l" in flags:
        raise GrammarError(f"The flag l of /{regex[:60]}/ is not supported: it depends on the locale.")
    number = sum(_FLAGS[flag] for flag in set(flags))
    with warnings.catch_warnings(action="ignore"):
        tree = parser.parse(regex, number)
    return _sequence(tree, tree.state.flags, regex)


def _sequence(items: Any, flags: int, regex: str) -> Pattern:
    return ("seq", [_item(kind, value, flags, regex) for kind, value in items])


def _item(kind: Any, value: Any, flags: int, regex: str) -> Pattern:
    fold = bool(flags & re.I)
    if kind is code.LITERAL:
        return caseless(chr(value)) if fold else ("text", chr(value))
    if kind is code.NOT_LITERAL:
        return ("set", _class([(code.NEGATE, None), (code.LITERAL, value)], fold, regex))
    if kind is code.ANY:
        return ANY if flags & re.S else ("set", r"[^\n]")
    if kind is code.IN:
        return ("set", _class(value, fold, regex))
    if kind is code.BRANCH:
        return ("alt", [_sequence(one, flags, regex) for one in value[1]])
    if kind is code.SUBPATTERN:
        _, added, removed, inner = value
        return _sequence(inner, (flags | added) & ~removed, regex)
    if kind in (code.MAX_REPEAT, code.MIN_REPEAT):
        low, high, inner = value
        top = None if high is code.MAXREPEAT else int(high)
        return ("rep" if kind is code.MAX_REPEAT else "lazy", _sequence(inner, flags, regex), int(low), top)
    if kind in (code.ASSERT, code.ASSERT_NOT):
        return ("look", value[0] > 0, kind is code.ASSERT_NOT, _sequence(value[1], flags, regex))
    raise GrammarError(f"{str(kind).lower()} in /{regex[:60]}/ is not supported.")


def _variants(character: str) -> str:
    """The other cases of a character that are one character each, and that Python takes for it."""
    found = {character.lower(), character.upper(), character}
    return "".join(sorted(one for one in found if len(one) == 1 and re.fullmatch(re.escape(character), one, re.I)))


def caseless(text: str) -> Pattern:
    """A text in any case."""
    return ("seq", [("set", f"[{''.join(map(_hex, _variants(one)))}]") for one in text])


def range_of(first: str, last: str) -> Pattern:
    return ("set", f"[{_hex(first)}-{_hex(last)}]")


def _hex(character: str) -> str:
    return f"\\x{{{ord(character):X}}}"


def _class(items: Any, fold: bool, regex: str) -> str:
    negative = bool(items) and items[0][0] is code.NEGATE
    parts: list[str] = []
    for kind, value in items[1:] if negative else items:
        if kind is code.CATEGORY:
            parts.append(_CATEGORIES[value][negative])
            continue
        first, last = (value, value) if kind is code.LITERAL else value
        parts.append(f"{_hex(chr(first))}-{_hex(chr(last))}")
        if fold and negative and (last > 127 or last - first > 127):
            raise GrammarError(f"A negative class of other letters than ASCII's in /{regex[:60]}/i is not supported.")
        if fold:  # of wide ranges the letters of ASCII are enough: fewer are matched, never others
            parts += [_hex(one) for at in range(first, min(last, 127) + 1) for one in _variants(chr(at))]
        if fold and negative:
            parts.append(r"\x{130}\x{131}\x{17F}\x{212A}")
    return f"[{'^' if negative else ''}{''.join(parts)}]"


def _width(node: Pattern) -> tuple[int, int]:
    """The fewest and the most characters."""
    kind = node[0]
    if kind == "set":
        return 1, 1
    if kind == "text":
        return len(node[1]), len(node[1])
    if kind == "look":
        return 0, 0
    if kind == "both":
        return _width(node[1])
    if kind in ("rep", "lazy"):
        low, high = _width(node[1])
        return low * node[2], min(high * (_NO_LIMIT if node[3] is None else node[3]), _NO_LIMIT)
    widths = [_width(one) for one in node[1]]
    if kind == "seq":
        return sum(low for low, _ in widths), min(sum(high for _, high in widths), _NO_LIMIT)
    return min((low for low, _ in widths), default=0), max((high for _, high in widths), default=0)


def _has(node: Pattern, kind: str) -> bool:
    if node[0] == kind:
        return True
    if node[0] in ("seq", "alt"):
        return any(_has(one, kind) for one in node[1])
    return node[0] in ("rep", "lazy", "both") and _has(node[1], kind)


def resolve(node: Pattern, name: str) -> Pattern | None:
    """The pattern without look-around and lazy repetitions; None where nothing is left. Raises GrammarError."""
    plain = _plain(node, name, False)
    if plain is None or not _has(node, "lazy"):
        return plain
    return ("both", plain, True, ("seq", [_plain(node, name, True) or EMPTY, ("rep", ANY, 1, None)]))


def _plain(node: Pattern, name: str, wide: bool) -> Pattern | None:
    """`wide`: at least what the pattern matches, whatever follows it; else at most."""
    if node[0] in ("set", "text", "both"):
        return node
    if not _has(node, "look"):
        if node[0] in ("seq", "alt"):
            return (node[0], [_plain(one, name, wide) or EMPTY for one in node[1]])
        return ("rep", _plain(node[1], name, wide) or EMPTY, node[2], node[3])
    if node[0] in ("rep", "lazy"):
        inner = _plain(node[1], name, wide)
        if inner is None:
            return EMPTY if node[2] == 0 else None
        return ("rep", inner, node[2], node[3])
    options = [_ahead(parts, name, wide) for parts in _flat([node]) for parts in _behind(parts, name, wide)]
    kept = [one for one in options if one is not None]
    return ("alt", kept) if kept else None


def _flat(nodes: list[Pattern]) -> list[list[Pattern]]:
    """Sequences that together match the same, in which look-around is at the top or inside a repetition."""
    out: list[list[Pattern]] = [[]]
    for node in nodes:
        if node[0] == "seq":
            ends = _flat(node[1])
        elif node[0] == "alt" and _has(node, "look"):
            ends = [one for option in node[1] for one in _flat([option])]
        else:
            ends = [[node]]
        out = [[*one, *end] for one in out for end in ends]
        if len(out) > 256:
            raise GrammarError("A terminal has too many alternatives with look-around.")
    return out


def _behind(parts: list[Pattern], name: str, wide: bool) -> list[list[Pattern]]:
    at = next((i for i, one in enumerate(parts) if one[0] == "look" and not one[1]), None)
    if at is None:
        return [parts]
    starts = _ending(parts[:at], parts[at], name, wide)
    return [one for start in starts for one in _behind([*start, *parts[at + 1 :]], name, wide)]


def _ending(parts: list[Pattern], look: Pattern, name: str, wide: bool) -> list[list[Pattern]]:
    """Sequences for `parts` whose end satisfies a look-behind."""
    if not parts:
        raise GrammarError(f"The terminal {name} looks behind its own beginning, which is not supported.")
    *before, last = parts
    if last[0] == "look":
        return [[*one, last] for one in _ending(before, look, name, wide)]
    _, _, negative, wanted = look
    low, high = _width(last)
    width = _width(wanted)[1]
    end = ("seq", [("rep", ANY, 0, None), wanted])
    plain = _plain(last, name, wide)
    if plain is None:
        return []
    if low >= width:
        return [[*before, ("both", plain, negative, end)]]
    if width != 1 or low != 0 or high == 0:
        raise GrammarError(f"The look-behind in the terminal {name} is not supported.")
    some = ("both", ("both", plain, True, EMPTY), negative, end)
    return [[*before, some], *_ending(before, look, name, wide)]


def _ahead(parts: list[Pattern], name: str, wide: bool) -> Pattern | None:
    at = next((i for i, one in enumerate(parts) if one[0] == "look"), None)
    if at is None:
        plain = [_plain(one, name, wide) for one in parts]
        return ("seq", plain) if None not in plain else None
    start = [_plain(one, name, wide) for one in parts[:at]]
    rest = _ahead(parts[at + 1 :], name, wide)
    if rest is None or None in start:
        return None
    _, _, negative, wanted = parts[at]
    if _has(wanted, "look"):
        raise GrammarError(f"Look-around inside look-around in the terminal {name} is not supported.")
    reach, low = _width(wanted)[1], _width(rest)[0]
    if low < reach and wide:
        if not negative:
            return ("seq", [*start, rest])
    elif negative and low < reach:
        # The text may end before the look-ahead has read all it needs: such ends are left out.
        if _width(rest)[1] == 0:
            return None
        rest = ("both", rest, True, ("alt", _beginnings(wanted, name)))
    full = ("seq", [wanted, ("rep", ANY, 0, None)])
    return ("seq", [*start, ("both", rest, negative, full)])


def _beginnings(node: Pattern, name: str) -> list[Pattern]:
    """What a pattern of single characters one after the other matches, short of its end."""
    parts = [part for one in _flat([node]) for part in one]
    if not all(one[0] == "set" or (one[0] == "text" and len(one[1]) == 1) for one in parts):
        raise GrammarError(f"The look-ahead in the terminal {name} is not supported.")
    return [("seq", parts[:i]) for i in range(len(parts))]


def emit(node: Pattern) -> str:
    """A resolved pattern as the body of a terminal in llguidance's syntax."""
    kind = node[0]
    if kind == "set":
        return f"/{node[1]}/"
    if kind == "text":
        return lark_string(node[1])
    if kind == "rep":
        high = "" if node[3] is None else node[3]
        return f"({emit(node[1])}){{{node[2]},{high}}}"
    if kind == "both":
        return f"(({emit(node[1])}) & {'~' if node[2] else ''}({emit(node[3])}))"
    if kind == "alt":
        return f"({' | '.join(dict.fromkeys(emit(one) for one in node[1]))})"
    return " ".join(f"({emit(one)})" if one[0] == "alt" else emit(one) for one in _joined(node[1])) or '""'


def _joined(parts: list[Pattern]) -> list[Pattern]:
    out: list[Pattern] = []
    for one in parts:
        for part in one[1] if one[0] == "seq" else [one]:
            if part[0] == "text" and out and out[-1][0] == "text":
                out[-1] = ("text", out[-1][1] + part[1])
            else:
                out.append(part)
    return out
