"""Families over shared blocks, their registry, and loading."""

from .build import build_model
from .registry import families, family, get_classes

__all__ = ["build_model", "families", "family", "get_classes"]
