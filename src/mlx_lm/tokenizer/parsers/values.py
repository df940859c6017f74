"""Values that models write (JSON, Python literals, Gemma's notation), passed on as JSON text while they arrive.

Contract: `read_value` reads one value of a dialect and hands pieces of JSON text to a sink; the pieces joined are valid
JSON, spaced like Python's `json.dumps`. Slips that have one meaning only are mended (line breaks inside strings, `True`
for `true`, an unknown escape); everything else is Malformed. A string is passed on while it is written.

This module does not know tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mlx_lm.tokenizer.parsers.source import Malformed, Markers, Reading, Source

__all__ = [
    "GEMMA4",
    "GEMMA_FUNCTION",
    "JSON",
    "PYTHON",
    "Dialect",
    "drive",
    "escape",
    "read_key",
    "read_members",
    "read_string",
    "read_value",
    "transcode",
]

Sink = Callable[[str], None]
MAX_DEPTH = 64
MAX_WORD = 4096  # characters of a number or a bare word
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)
_JSON_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_JSON_ESCAPES = frozenset('"\\/bfnrt')
_PYTHON_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_PYTHON_HEX = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class Dialect:
    """A notation of values.

    Attributes:
        quotes: what begins and ends a string.
        escapes: "json", "python", or "" where strings stand for themselves.
        bare_keys: keys of objects may stand without quotes.
        bare_strings: a word that is no literal is a string; it ends at one of `,]}`.
        lax_quotes: a quote ends a string only before one of `,:)]}` or the end: inside it may be an apostrophe.
        tuples: parentheses make arrays.
    """

    quotes: tuple[str, ...]
    escapes: str = ""
    bare_keys: bool = False
    bare_strings: bool = False
    lax_quotes: bool = False
    tuples: bool = False
    ends: dict[str, Markers] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for quote in self.quotes:
            self.ends[quote] = Markers((quote, "\\") if self.escapes else (quote,))


JSON = Dialect(('"',), "json")
PYTHON = Dialect(("'", '"'), "python", lax_quotes=True, tuples=True)
GEMMA4 = Dialect(('<|"|>',), bare_keys=True, bare_strings=True)
GEMMA_FUNCTION = Dialect(("<escape>",), bare_keys=True, bare_strings=True)
_BARE_END = Markers((",", "]", "}"))
_KEY_END = Markers((":",))


def escape(text: str) -> str:
    """`text` as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def read_value(source: Source, dialect: Dialect, sink: Sink, depth: int = 0) -> Reading[None]:
    """Reads one value, white space before it included. Raises Malformed, also for nesting over 64 levels."""
    if depth > MAX_DEPTH:
        raise Malformed("nested too deeply")
    yield from source.skip_space()
    first = yield from source.peek()
    if first == "{":
        yield from _read_object(source, dialect, sink, depth)
    elif first == "[" or (first == "(" and dialect.tuples):
        yield from _read_array(source, dialect, sink, depth, "]" if first == "[" else ")")
    elif quote := (yield from source.comes(*dialect.quotes)):
        yield from read_string(source, dialect, quote, sink)
    else:
        yield from _read_word(source, dialect, sink)


def _read_object(source: Source, dialect: Dialect, sink: Sink, depth: int) -> Reading[None]:
    source.take(1)
    yield from read_members(source, dialect, sink, depth)


def read_members(source: Source, dialect: Dialect, sink: Sink, depth: int = 0) -> Reading[None]:
    """Reads the rest of an object whose opening brace was read; hands on the whole object."""
    sink("{")
    yield from source.skip_space()
    if (yield from source.accept("}")):
        return sink("}")
    while True:
        yield from read_key(source, dialect, sink)
        sink(": ")
        yield from read_value(source, dialect, sink, depth + 1)
        yield from source.skip_space()
        if (yield from source.accept("}")):
            return sink("}")
        yield from source.expect(",")
        sink(", ")


def read_key(source: Source, dialect: Dialect, sink: Sink) -> Reading[None]:
    """Reads a key and its colon; hands on the key only."""
    yield from source.skip_space()
    quote = yield from source.comes(*dialect.quotes)
    if quote:
        yield from read_string(source, dialect, quote, sink)
        yield from source.skip_space()
        yield from source.expect(":")
    elif dialect.bare_keys:
        key, _ = yield from source.text_until(_KEY_END, 256)
        if not key.strip() or any(c in key for c in ",{}[]"):
            raise Malformed("not a key")
        sink(f'"{escape(key.strip())}"')
    else:
        raise Malformed("a key must be quoted")


def _read_array(source: Source, dialect: Dialect, sink: Sink, depth: int, end: str) -> Reading[None]:
    source.take(1)
    sink("[")
    yield from source.skip_space()
    if (yield from source.accept(end)):
        return sink("]")
    while True:
        yield from read_value(source, dialect, sink, depth + 1)
        yield from source.skip_space()
        if (yield from source.accept(end)):
            return sink("]")
        yield from source.expect(",")
        if dialect.tuples:
            yield from source.skip_space()
            if (yield from source.accept(end)):
                return sink("]")
        sink(", ")


def read_string(source: Source, dialect: Dialect, quote: str, sink: Sink) -> Reading[None]:
    """Reads a string whose `quote` comes next, and hands it on as a JSON string."""
    source.take(len(quote))
    if dialect.escapes == "python" and (yield from source.accept(quote * 2)):
        if (yield from source.comes(quote)):
            quote *= 3
        else:
            return sink('""')
    markers = dialect.ends.get(quote) or Markers((quote, "\\"))
    sink('"')
    while True:
        found = yield from source.until(markers, lambda piece: sink(escape(piece)))
        if found is None:
            raise Malformed("a string without end")
        if found == "\\" and dialect.escapes:
            yield from (_json_escape(source, sink) if dialect.escapes == "json" else _python_escape(source, sink))
        elif dialect.lax_quotes and len(quote) == 1 and not (yield from _string_ends(source)):
            sink(escape(quote))
        else:
            return sink('"')


def _string_ends(source: Source) -> Reading[bool]:
    count = 1
    while True:
        ahead = yield from source.peek(count)
        if len(ahead) < count or ahead[-1] in ",:)]}":
            return True
        if ahead[-1] not in " \n\t\r" or count > 64:
            return False
        count += 1


def _json_escape(source: Source, sink: Sink) -> Reading[None]:
    letter = yield from source.peek()
    if letter == "u":
        digits = (yield from source.peek(5))[1:]
        if len(digits) == 4 and all(c in "0123456789abcdefABCDEF" for c in digits):
            source.take(5)
            return sink("\\u" + digits)
    elif letter in _JSON_ESCAPES and letter:
        source.take(1)
        return sink("\\" + letter)
    elif letter == "'":
        source.take(1)
        return sink("'")
    sink("\\\\")  # an escape that JSON does not have, such as in a regular expression: the backslash was meant


def _python_escape(source: Source, sink: Sink) -> Reading[None]:
    letter = yield from source.peek()
    count = _PYTHON_HEX.get(letter, 0)
    if count:
        digits = (yield from source.peek(1 + count))[1:]
        if len(digits) == count and all(c in "0123456789abcdefABCDEF" for c in digits) and int(digits, 16) < 0x110000:
            source.take(1 + count)
            return sink(escape(chr(int(digits, 16))))
    elif letter in _PYTHON_ESCAPES:
        source.take(1)
        return sink(escape(_PYTHON_ESCAPES[letter]))
    elif letter and letter in "\"'\\":
        source.take(1)
        return sink(escape(letter))
    sink("\\\\")


def _read_word(source: Source, dialect: Dialect, sink: Sink) -> Reading[None]:
    if dialect.bare_strings:
        text = yield from _peek_bare(source)
        word = text.strip()
        if not word:
            raise Malformed("no value")
        source.take(len(text))
        known = _literal(word, dialect)
        return sink(known if known is not None else f'"{escape(word)}"')
    word = yield from _peek_word(source)
    known = _literal(word, dialect)
    if known is None:
        raise Malformed("no value")
    source.take(len(word))
    sink(known)


def _peek_bare(source: Source) -> Reading[str]:
    count = 1
    while True:
        ahead = yield from source.peek(count)
        if len(ahead) < count or count > MAX_WORD:
            raise Malformed("a value without end")
        if ahead[-1] in ",]}":
            return ahead[:-1]
        count += 1


def _peek_word(source: Source) -> Reading[str]:
    count = 1
    while True:
        ahead = yield from source.peek(count)
        if len(ahead) < count:
            return ahead
        if not (ahead[-1].isalnum() or ahead[-1] in "-+._"):
            return ahead[:-1]
        if count > MAX_WORD:
            raise Malformed("a word without end")
        count += 1


def _literal(word: str, dialect: Dialect) -> str | None:
    if word in _JSON_WORDS:
        return _JSON_WORDS[word]
    if _JSON_NUMBER.fullmatch(word):
        return word
    if dialect.tuples:  # Python: 1_000, .5, 0x1f
        try:
            return str(int(word, 0)) if len(word) < 4000 else None
        except ValueError:
            pass
        try:
            number = float(word)
        except ValueError:
            return None
        return repr(number) if number - number == 0 else None
    return None


def drive(reading: Reading[None], source: Source) -> bool:
    """Runs a reader over a source that is complete. Whether it read all of it."""
    source.close()
    try:
        for _ in reading:
            pass
        rest = source.peek()
        try:
            next(rest)
        except StopIteration as stop:
            return not stop.value
        return False
    except Malformed:
        return False


def transcode(text: str, dialect: Dialect = JSON) -> str | None:
    """The JSON text of the one value that `text` holds; None if it is not one."""
    source = Source()
    source.feed(text.strip())
    pieces: list[str] = []
    return "".join(pieces) if drive(read_value(source, dialect, pieces.append), source) else None
