"""Zamba 2: Mamba-2 layers that hear shared blocks in turn, each call with narrow additions of its own.

Source: https://arxiv.org/abs/2411.15242.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import AttentionOptions, GatedMLP, Linear, Mamba2, Rope, gated, make_rope
from ..state import LayerState, attend_states, offsets
from . import zamba
from .mamba2 import mamba2_options
from .parts import Rename, refuse


class ModelArgs(zamba.SharedArgs):
    fixed = {"use_long_context": (False,)}
    multiples = {"inner_size": "n_mamba_heads", "n_mamba_heads": "mamba_ngroups"}
    feed_forward_ratio = 4
    mamba_d_state: int = 64
    mamba_ngroups: int = 1
    n_mamba_heads: int = 8
    time_step_min: float = 0.001
    add_bias_linear: bool = False
    num_mem_blocks: int = 1
    use_shared_attention_adapter: bool = False
    adapter_rank: int = 128
    use_mem_rope: bool = False

    def attends(self, index: int) -> bool:
        usual = "m" + "mmmmmh" * 7 + "mmmmh" + "mmmh" + "mm"
        refuse(self.num_hidden_layers != len(usual), f"without layers_block_type there are {len(usual)} layers")
        return usual[index] == "h"

    def owner(self, index: int) -> int:
        return self.calls()[self.block(index)] if self.tie_word_embeddings else index

    def block(self, index: int) -> int:
        """The number of the shared block that layer `index` calls."""
        return self.calls().index(index) % self.num_mem_blocks


class Narrow(nn.Module):
    """Two linear layers with a narrow middle."""

    def __init__(self, width: int, rank: int, out: int):
        super().__init__()
        self.down, self.up = Linear(width, rank, bias=False), Linear(rank, out, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.up(self.down(x))


def _additions(args: ModelArgs, owner: int, width: int, out: int) -> list[nn.Module]:
    """By the number of the call; calls of another block than that of layer `owner` have none."""
    own = [args.block(i) == args.block(owner) for i in args.calls()]
    return [Narrow(width, args.adapter_rank, out) if mine else nn.Identity() for mine in own]


class AdaptedAttention(zamba.WideAttention):
    """Queries, keys and values get what the call's own narrow layers add."""

    def __init__(self, options: AttentionOptions, args: ModelArgs, owner: int):
        super().__init__(options)
        o = options
        if args.use_shared_attention_adapter:
            for name, heads in (("q", o.num_heads), ("k", o.num_kv_heads), ("v", o.num_kv_heads)):
                self[f"linear_{name}_adapter_list"] = _additions(args, owner, o.hidden_size, heads * o.head_dim)

    def call(self, x: mx.array, state: LayerState, call: int) -> mx.array:
        """x (B, L, 2D) -> (B, L, D)."""
        o, position, parts = self._options, offsets(state), []
        for name in "qkv":
            y = self[f"{name}_proj"](x)
            if f"linear_{name}_adapter_list" in self:
                y = y + self[f"linear_{name}_adapter_list"][call](x)
            parts.append(mx.unflatten(y, -1, (-1, o.head_dim)).transpose(0, 2, 1, 3))
        queries, keys = self._place(parts[0], parts[1], position)
        out = self._attend(queries, attend_states(state, keys, parts[2], o.window), position)
        return self[self.out_name](out.transpose(0, 2, 1, 3).flatten(2))


class AdaptedMLP(GatedMLP):
    def __init__(self, args: ModelArgs, owner: int):
        width, size = args.hidden_size, args.intermediate_size
        super().__init__(width, size, args.hidden_act, bias=args.add_bias_linear, fused=True)
        self.gate_up_proj_adapter_list = _additions(args, owner, width, 2 * size)

    def call(self, x: mx.array, call: int) -> mx.array:
        """x (B, L, D) -> (B, L, D)."""
        both = self[self.fused_name](x) + self.gate_up_proj_adapter_list[call](x)
        gate, up = mx.split(both, 2, axis=-1)
        return self[self.down_name](gated(gate, up, self.act))


class Block(zamba.SharedBlock):
    def __call__(self, x: mx.array, state: LayerState, call: int) -> mx.array:
        h = self.self_attn.call(self.input_layernorm(x), state, call)
        return self.feed_forward.call(self.pre_ff_layernorm(h), call)


class Model(zamba.Model):
    block_name = "shared_transformer"
    rules = tuple(Rename(rf"(_adapter_list\.\d+)\.{i}\.", rf"\1.{name}.") for i, name in enumerate(("down", "up")))

    def mamba(self, args: Any) -> nn.Module:
        size = args.inner_size // args.n_mamba_heads
        return Mamba2(mamba2_options(args, head_dim=size, norm_eps=1e-5, act="silu"))

    def rope(self, args: Any) -> Rope | None:
        return make_rope(args.head_dim, args.rope_parameters()) if args.use_mem_rope else None

    def block(self, args: Any, options: AttentionOptions, index: int) -> nn.Module:
        return Block(AdaptedAttention(options, args, index), AdaptedMLP(args, index), args)
