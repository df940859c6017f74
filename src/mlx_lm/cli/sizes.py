"""Bytes as people write and read them."""

import argparse
import re

__all__ = ["byte_count", "size_text"]

_UNITS = ("B", "kB", "MB", "GB", "TB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def size_text(nbytes: float) -> str:
    """Decimal units, as disks and downloads count."""
    value = float(nbytes)
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def byte_count(text: str) -> int:
    """Argparse type: 1000, 500MB, 1.5G (decimal) or 4GiB (binary)."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"must be a number of bytes as in 1000, 500MB or 4GiB, not {text!r}")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** ("", *"kmgt").index(unit.lower()))
