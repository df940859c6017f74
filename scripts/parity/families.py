"""All parity families by directory name, in the order they are made."""

from __future__ import annotations

from . import dense, dense_more, gpt, hybrid, hybrid_more, moe, moe_more, nested, novel, others, rare, recent
from .spec import Family

__all__ = ["FAMILIES"]

_GROUPS = (
    dense.FAMILIES,
    moe.FAMILIES,
    hybrid.FAMILIES,
    dense_more.FAMILIES,
    gpt.FAMILIES,
    moe_more.FAMILIES,
    hybrid_more.FAMILIES,
    nested.FAMILIES,
    rare.FAMILIES,
    others.FAMILIES,
    novel.FAMILIES,
    recent.FAMILIES,
)

FAMILIES: dict[str, Family] = {family.directory: family for group in _GROUPS for family in group}
