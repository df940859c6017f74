"""Structured output: JSON Schema, regular expressions, choices, context-free grammars and Python types as constraints.

Imports no MLX, and nothing heavy at import time.
"""

from mlx_lm.grammar.constraint import Constraint, Grammar, TokenMask, allows, mask_tokens, mask_width

__all__ = ["Constraint", "Grammar", "TokenMask", "allows", "mask_tokens", "mask_width"]
