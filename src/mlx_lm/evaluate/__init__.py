"""Measurements of models: how well they predict a text, how they do on tasks, and how fast they run.

Importing this package loads no MLX: names are looked up when they are first used.
"""

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import Question, write_answers
    from .perplexity import Perplexity, first_token, load_texts, measure_perplexity, token_windows
    from .scoring import Score, score_continuations

__all__ = [
    "Perplexity",
    "Question",
    "Score",
    "first_token",
    "load_texts",
    "measure_perplexity",
    "score_continuations",
    "token_windows",
    "write_answers",
]

_HOMES = MappingProxyType(
    {
        "Perplexity": "perplexity",
        "Question": "answers",
        "Score": "scoring",
        "first_token": "perplexity",
        "load_texts": "perplexity",
        "measure_perplexity": "perplexity",
        "score_continuations": "scoring",
        "token_windows": "perplexity",
        "write_answers": "answers",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
