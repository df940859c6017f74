"""The HTTP server: OpenAI's and Anthropic's protocols over one engine.

`work` and `service` say what adapters and core have in common; nothing is imported here before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine import LRUPromptCache

__all__ = ["LRUPromptCache"]


def __getattr__(name: str) -> Any:
    if name == "LRUPromptCache":  # where programs written for mlx-lm take it from
        from ..engine import LRUPromptCache

        return LRUPromptCache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
