"""Speculative decoding: cheap drafts, checked by the model in one step each."""

from .draft import speculative_events, speculative_generate_step

__all__ = ["speculative_events", "speculative_generate_step"]
