"""Bamba: Mamba-2 layers, attention at some. Source: https://huggingface.co/blog/bamba."""

import math
from dataclasses import field, replace
from typing import Any

from ..nn import LayerNames, Mamba2, Mamba2Options
from .base import ModelNames
from .config import LlamaArgs, refuse
from .dense import DenseModel, LinearArgs
from .mamba2 import mamba2_options


class Mamba2Args(LlamaArgs):
    """A decoder's config with the Mamba-2 keys that Bamba, Falcon-H1 and Granite 4 share."""

    multiples = {"mamba_n_heads": "mamba_n_groups"}
    rms_norm_eps: float = 1e-5
    mamba_n_heads: int = 128
    mamba_d_head: int | str | None = "auto"
    mamba_n_groups: int = 1
    mamba_d_state: int = 256
    mamba_d_conv: int = 4
    mamba_expand: float = 2
    mamba_d_ssm: int | None = None
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: list[Any] = field(default_factory=lambda: [0.0, math.inf])

    def linear_options(self, **changes: Any) -> Mamba2Options:
        """The Mamba-2 layers of this config."""
        inner = self.mamba_d_ssm or int(self.mamba_expand * self.hidden_size)
        size = inner // self.mamba_n_heads if self.mamba_d_head in ("auto", None) else self.mamba_d_head
        fits = isinstance(size, int) and size * self.mamba_n_heads == inner
        refuse(not fits, f"mamba_n_heads={self.mamba_n_heads} heads of {size!r} do not make {inner} channels")
        return mamba2_options(self, head_dim=size, **changes)


class ModelArgs(Mamba2Args, LinearArgs):
    max_position_embeddings: int = 262144
    partial_rotary_factor: float = 0.5
    attn_layer_indices: list[int] | None = None

    def attends(self, index: int) -> bool:
        return index in (self.attn_layer_indices or [])


class Model(DenseModel):
    names = ModelNames(norm="final_layernorm")

    layer_names = LayerNames("self_attn", "feed_forward", pre_feed_forward="pre_ff_layernorm")
    linear_names = replace(layer_names, mixer="mamba")
    linear_type = Mamba2
