"""Speculative decoding: cheap guesses, checked by the model in one step each."""

from .options import DraftSpeculation, HeadSpeculation, NGramSpeculation, Probe, Speculation

__all__ = ["DraftSpeculation", "HeadSpeculation", "NGramSpeculation", "Probe", "Speculation"]
