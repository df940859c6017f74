"""Command R7B and A: Command R with windows; full layers have no rope. Source: https://arxiv.org/abs/2504.00698."""

from . import cohere
from .dense import SlidingArgs


class ModelArgs(SlidingArgs, cohere.ModelArgs):
    fixed = {"use_qk_norm": (False,)}
    sliding_window: int | None = 4096
    sliding_window_pattern: int | None = 4


class Model(cohere.Model):
    rope_where_sliding = True
