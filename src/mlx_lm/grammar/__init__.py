"""Structured output: JSON Schema, regular expressions, choices, context-free grammars and Python types as constraints.

Imports no MLX, and nothing heavy at import time.
"""

from typing import TYPE_CHECKING

from mlx_lm.lazy import lookup

if TYPE_CHECKING:
    from mlx_lm.grammar.budget import within_budget
    from mlx_lm.grammar.compiler import check_output_type, compile_constraint, parse_output
    from mlx_lm.grammar.constraint import Constraint, Grammar, TokenMask, allows, mask_tokens, mask_width
    from mlx_lm.grammar.matcher import CompiledGrammar
    from mlx_lm.grammar.schema import prepare_schema
    from mlx_lm.grammar.specs import CFG, Choice, JsonSchema, Regex
    from mlx_lm.grammar.thinking import ThinkingConstraint

__all__ = [
    "CFG",
    "Choice",
    "CompiledGrammar",
    "Constraint",
    "Grammar",
    "JsonSchema",
    "Regex",
    "ThinkingConstraint",
    "TokenMask",
    "allows",
    "check_output_type",
    "compile_constraint",
    "mask_tokens",
    "mask_width",
    "parse_output",
    "prepare_schema",
    "within_budget",
]

__getattr__ = lookup(
    __name__,
    {
        "budget": "within_budget",
        "compiler": "check_output_type compile_constraint parse_output",
        "constraint": "Constraint Grammar TokenMask allows mask_tokens mask_width",
        "matcher": "CompiledGrammar",
        "schema": "prepare_schema",
        "specs": "CFG Choice JsonSchema Regex",
        "thinking": "ThinkingConstraint",
    },
)
