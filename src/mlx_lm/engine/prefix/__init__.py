"""Prefix reuse: content-keyed blocks of states, in memory and on disk."""

from .cache import Buffer, PrefixCache, PrefixStats, Reuse
from .keys import BLOCK_TOKENS, namespace

__all__ = ["BLOCK_TOKENS", "Buffer", "PrefixCache", "PrefixStats", "Reuse", "namespace"]
