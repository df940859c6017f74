"""JSON values and the type hints that they are to fit."""

import types
import typing
from typing import Any

__all__ = ["is_huge", "matches", "shown", "whole"]


def matches(value: Any, hint: Any) -> bool:
    """Whether a JSON value fits a type hint; an int fits float, a bool fits only bool."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, h) for h in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if origin is list:
        (inner,) = typing.get_args(hint)
        return isinstance(value, list) and all(matches(v, inner) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
    return isinstance(value, hint)


def whole(value: Any, hint: Any) -> Any:
    """32 for 32.0 where only whole numbers fit."""
    if isinstance(value, list):
        return [whole(v, typing.get_args(hint)[0]) for v in value] if typing.get_origin(hint) is list else value
    fits_float = hint in (float, Any) or any(h in (float, Any) for h in typing.get_args(hint))
    return int(value) if isinstance(value, float) and not fits_float else value


def is_huge(value: Any, hint: Any) -> bool:
    """Whether a whole number, where only such fit, is beyond what a size or an id can be."""
    if isinstance(value, list):
        return typing.get_origin(hint) is list and any(is_huge(v, typing.get_args(hint)[0]) for v in value)
    fits_float = hint in (float, Any) or any(h in (float, Any) for h in typing.get_args(hint))
    return isinstance(value, int) and not fits_float and abs(value) >= 2**31


def shown(hint: Any) -> str:
    """A hint for people."""
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
