"""Which strings a model puts around its reasoning.

Contract: pure look-ups in the vocabulary and the chat template's text; nothing is rendered or run. A format that is
not in the tables is not guessed.

This module does not know tool calls; `parsers` does.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["find_thinking", "may_reason"]

_THINKING = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
_GEMMA_CHANNEL = ("<|channel>", "<channel|>")  # Gemma 4: the channel's name follows the opening token
# What is in the template, or which token is in the vocabulary, where `parsers` knows a style of reasoning.
_HINTS = ("think", "THINK", "channel", "<atem:", "<|open|>")
_END_TOKENS = ("</seed:think>", "</mm:think>", "<|END_THINKING|>")


def may_reason(token_id: Callable[[str], int | None], template: str) -> bool:
    """False where neither this module nor `parsers` can find markers: the parsers' 20 ms of imports are then saved."""
    return any(hint in template for hint in _HINTS) or any(token_id(end) is not None for end in _END_TOKENS)


def find_thinking(token_id: Callable[[str], int | None], template: str) -> tuple[str, str] | None:
    """The strings that open and close reasoning: both in the vocabulary, or both written in the template."""
    for start, end in _THINKING:
        if token_id(start) is not None and token_id(end) is not None:
            return start, end
    if all(token_id(mark) is not None for mark in _GEMMA_CHANNEL):
        return f"{_GEMMA_CHANNEL[0]}thought", _GEMMA_CHANNEL[1]
    return next(((start, end) for start, end in _THINKING if start in template and end in template), None)
