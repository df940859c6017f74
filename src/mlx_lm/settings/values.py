"""Values of settings as texts, TOML and Python give them: numbers, bytes, lists and tables. Knows no settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["KINDS", "WORDS", "Kind", "is_none", "parse_bytes", "shown"]

Kind = str  # a key of KINDS
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_NONE = ("", "none", "null")


def is_none(value: Any) -> bool:
    """Whether a value says that there is none."""
    return value is None or (isinstance(value, str) and value.strip().lower() in _NONE)


def parse_bytes(text: str) -> int:
    """1000, 500MB, 1.5G (decimal) or 4GiB (binary); ValueError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"must be a number of bytes as in 1000, 500MB or 4GiB, not {text!r}")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("", *"kmgt").index(unit.lower()))


def _read_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    return int(value)


def _read_float(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _read_bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _read_bytes(value: Any) -> int:
    return parse_bytes(value) if isinstance(value, str) else _read_int(value)


def _read_list(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError
    return tuple(item.strip() for item in items if item.strip())


def _read_table(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = json.loads(value)
    elif isinstance(value, str):
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        if not all(equals and name.strip() and target.strip() for name, equals, target in pairs):
            raise ValueError
        value = {name.strip(): target.strip() for name, _, target in pairs}
    if not isinstance(value, dict):
        raise ValueError
    return value


def shown(value: Any) -> str:
    """A value as the documentation writes it."""
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


KINDS: Mapping[Kind, Callable[[Any], Any]] = MappingProxyType(
    {
        "int": _read_int,
        "float": _read_float,
        "bool": _read_bool,
        "text": _read_text,
        "bytes": _read_bytes,
        "MiB": lambda value: _read_int(value) * 2**20,
        "list": _read_list,
        "table": _read_table,
    }
)
WORDS: Mapping[Kind, str] = MappingProxyType(
    {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "text": "text",
        "bytes": "a number of bytes as in 500MB or 4GiB",
        "MiB": "a whole number of MiB",
        "list": "a list of names",
        "table": "pairs as in name=value,other=value",
    }
)
