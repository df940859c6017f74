"""All parity families by directory name, in the order they are made."""

from __future__ import annotations

from . import dense, hybrid, moe
from .spec import Family

__all__ = ["FAMILIES"]

FAMILIES: dict[str, Family] = {
    family.directory: family for group in (dense.FAMILIES, moe.FAMILIES, hybrid.FAMILIES) for family in group
}
