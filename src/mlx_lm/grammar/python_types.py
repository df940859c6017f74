"""Python types as what the output is written like, and the text read back as a value.

Contract: at the top, a number, bool, date, time, literal or enum member is written plainly (`42`, `True`,
`2026-11-21`, `Paris`), `None` as `None`; everything else, and everything inside something else, is JSON. `read` turns
the text into the value: what was written by the type's grammar is read without loss.

Types: int, float, bool, str, None, date, time, datetime, Any, Literal, Enum, Union and Optional, list, tuple, dict,
set, dataclass, NamedTuple, TypedDict, pydantic models, Annotated types, and functions (their arguments as an object).
"""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from mlx_lm.errors import GrammarError, IncompleteOutputError
from mlx_lm.grammar.lark import Alternative, JsonPart, PatternPart, TextPart
from mlx_lm.grammar.patterns import DATE, DATE_TIME, TIME
from mlx_lm.grammar.schema import prepare_schema

__all__ = ["Member", "members_of", "read"]

# At the top numbers are no longer than 64-bit ones, so that a model which repeats a digit comes to an end.
_INTEGER = r"-?(?:0|[1-9][0-9]{0,17})"
_PLAIN: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: (_INTEGER, int),
    float: (rf"{_INTEGER}(?:\.[0-9]{{1,17}})?(?:[eE][+-]?[0-9]{{1,2}})?", float),
    bool: ("True|False", lambda text: {"true": True, "false": False}[text.lower()]),
    dt.date: (DATE, dt.date.fromisoformat),
    dt.time: (TIME, dt.time.fromisoformat),
    dt.datetime: (DATE_TIME, dt.datetime.fromisoformat),
}


@dataclass(frozen=True)
class Member:
    """One alternative of a type: how it is written, and how the text is read (ValueError or KeyError if it is not)."""

    part: Alternative
    parse: Callable[[str], Any]


def members_of(kind: Any) -> list[Member]:
    """The alternatives of a type, in the order in which they are tried. Raises GrammarError for what has none."""
    try:
        return list(_members(kind))
    except RecursionError as error:
        raise GrammarError(f"The type {kind!r} is nested too deeply.") from error


def read(text: str, kind: Any) -> Any:
    """The value that `text` writes.

    Raises IncompleteOutputError when it is none, as a text that was cut off. A pydantic model's own validators raise
    pydantic's ValidationError.
    """
    written = text.strip()
    refusal: Exception | None = None
    for member in members_of(kind):
        try:
            return member.parse(written)
        except (ValueError, KeyError) as error:
            if type(error).__module__.startswith("pydantic") and _complete_json(written):
                refusal = error
    if refusal is not None:
        raise refusal
    raise IncompleteOutputError(text, f"it is not a whole {getattr(kind, '__name__', kind)}")


def _complete_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _members(kind: Any) -> Iterator[Member]:
    kind = getattr(kind, "__value__", kind) if type(kind).__name__ == "TypeAliasType" else kind
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for one in get_args(kind):
            yield from _members(one)
    elif origin is Literal:
        yield from (_literal(value, value) for value in get_args(kind))
    elif kind is None or kind is type(None):
        yield Member(TextPart("None"), _none)
    elif kind in _PLAIN if _hashable(kind) else False:
        pattern, parse = _PLAIN[kind]
        yield Member(PatternPart(pattern), parse)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield from (_literal(member.value, member) for member in kind)
    elif isinstance(kind, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        model = _arguments_model(kind)
        yield _json_member(model, lambda value: {name: getattr(value, name) for name in model.model_fields})
    else:
        yield _json_member(_typed_dicts(kind), lambda value: value)


def _typed_dicts(kind: Any) -> Any:
    """Before Python 3.12 pydantic reads only the TypedDict of typing_extensions: the same fields as one of those."""
    if sys.version_info >= (3, 12):
        return kind
    if typing.is_typeddict(kind) and type(kind).__module__ == "typing":
        import typing_extensions

        hints = typing.get_type_hints(kind, include_extras=True)
        fields = {}
        for name, hint in hints.items():
            inner = get_args(hint)[0] if get_origin(hint) in (typing.Required, typing.NotRequired) else hint
            wrap: Any = typing.Required if name in kind.__required_keys__ else typing.NotRequired
            fields[name] = wrap[_typed_dicts(inner)]
        make: Any = typing_extensions.TypedDict
        return make(kind.__name__, fields)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None or origin in (Literal, typing.Annotated) or not arguments:
        return kind
    changed = tuple(_typed_dicts(one) for one in arguments)
    if changed == arguments:
        return kind
    return Union[changed] if origin is types.UnionType else origin[changed]  # noqa: UP007


def _hashable(kind: Any) -> bool:
    try:
        hash(kind)
    except TypeError:
        return False
    return True


def _none(text: str) -> None:
    if text.lower() not in ("none", "null"):
        raise ValueError(text)


def _literal(value: Any, result: Any) -> Member:
    """A literal or the value of an enum member; texts stand without quotes."""
    if isinstance(value, enum.Enum):
        value, result = value.value, value
    if isinstance(value, str | int | float) or value is None:
        text = str(value)

        def parse(found: str) -> Any:
            if found != text.strip():
                raise ValueError(found)
            return result

        return Member(TextPart(text), parse)
    return _json_constant(value, result)


def _json_constant(value: Any, result: Any) -> Member:
    try:
        written = json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise GrammarError(f"The value {value!r} cannot be written as JSON.") from error

    def parse(found: str) -> Any:
        if json.loads(found) != written:
            raise ValueError(found)
        return result

    return Member(JsonPart(prepare_schema({"const": written})), parse)


def _json_member(kind: Any, convert: Callable[[Any], Any]) -> Member:
    from pydantic import PydanticUserError, TypeAdapter

    try:
        adapter = TypeAdapter(kind)
        schema = adapter.json_schema()
    except (PydanticUserError, TypeError, NameError) as error:
        raise GrammarError(f"No grammar is known for the type {kind!r}: {str(error).splitlines()[0]}") from error
    return Member(JsonPart(prepare_schema(schema)), lambda text: convert(adapter.validate_json(text)))


def _arguments_model(function: Any) -> Any:
    """A pydantic model of a function's arguments."""
    from pydantic import ConfigDict, create_model

    try:
        signature = inspect.signature(function, eval_str=True)
    except (ValueError, NameError, TypeError) as error:
        raise GrammarError(f"The signature of {function!r} cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise GrammarError(f"{function.__name__}: *{name} has no fixed arguments.")
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
