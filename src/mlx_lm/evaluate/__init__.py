"""Measurements of models: how well they predict a text, and how fast they run."""

from .perplexity import Perplexity, first_token, load_texts, measure_perplexity, token_windows

__all__ = ["Perplexity", "first_token", "load_texts", "measure_perplexity", "token_windows"]
