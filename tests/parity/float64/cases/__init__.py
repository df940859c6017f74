"""Every float64 reference with the tiny configs that it is run on, by "family" or "family/variant"."""

from __future__ import annotations

from . import dense, experts, latent, recurrent
from .case import Case

__all__ = ["CASES", "Case"]

CASES: dict[str, Case] = {**dense.CASES, **experts.CASES, **recurrent.CASES, **latent.CASES}
