"""Zamba: Mamba layers in two heads, some of which first hear one attention block that they all share.

The block reads the embeddings beside the hidden states. Its weights stand at the first layer that calls it; each
calling layer keeps keys and values of its own. Source: https://arxiv.org/abs/2405.16712.
"""

from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import Attention, AttentionOptions, GatedMLP, HeadLinear, Linear, Mamba, MambaOptions, RMSNorm, Rope
from ..nn.decoder import DecoderLayer, LayerNames
from ..state import LayerState, ListSpec, StateSpec, part
from .mamba import step_rank
from .parts import Backbone, Cache, CausalLM, LinearArgs, ModelNames, block_options, layer_state, refuse
from .weights import Drop, Rename, Rule


class SharedArgs(LinearArgs):
    """What both Zambas' configs have."""

    kinds = "linear_attention", "hybrid"
    aliases = {"attention_head_dim": "head_dim", "layers_block_type": "layer_types"}
    hidden_act: str = "gelu"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    mamba_d_state: int = 16
    mamba_d_conv: int = 4
    mamba_expand: float = 2

    def __post_init__(self) -> None:
        if self.head_dim is None:
            self.head_dim = 2 * self.hidden_size // max(self.num_attention_heads, 1)
        super().__post_init__()

    @property
    def inner_size(self) -> int:
        """Channels of the state space."""
        return int(self.mamba_expand * self.hidden_size)

    def calls(self) -> list[int]:
        """Layers that call a shared block, in order."""
        return [i for i in range(self.num_hidden_layers) if not self.is_linear(i)]

    def owner(self, index: int) -> int:
        """The layer that has the weights of the block that layer `index` calls; transformers ties all or nothing."""
        return self.calls()[0] if self.tie_word_embeddings else index


class ModelArgs(SharedArgs):
    multiples = {"inner_size": "n_mamba_heads"}
    attention_hidden_size: int | None = None
    n_mamba_heads: int = 2
    hidden_mamba_act: str = "silu"
    attn_layer_period: int = 6
    attn_layer_offset: int = 4
    mamba_dt_rank: int | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mamba_dt_rank = step_rank(self, "mamba_dt_rank")
        size = self.attention_hidden_size
        refuse(size not in (None, 2 * self.hidden_size), f"attention_hidden_size={size} is not 2*hidden_size")

    def attends(self, index: int) -> bool:
        return index == 2 or (index > 2 and (index - 3) % self.attn_layer_period == self.attn_layer_offset)


class HeadedMamba(Mamba):
    """Time steps and maps are projected, and the state space runs, for each head apart."""

    def __init__(self, options: MambaOptions, heads: int):
        super().__init__(options)
        o, size, self._heads = options, options.inner_size // heads, heads
        self.x_proj = HeadLinear(size, o.rank + 2 * o.state_size, heads)
        self.dt_proj = HeadLinear(o.rank, size, heads)
        self.dt_proj_bias = mx.zeros((heads, size))
        self.A_log = self.A_log.reshape(heads, size, o.state_size)
        self.D = self.D.reshape(heads, size)

    def _halves(self, both: mx.array) -> tuple[mx.array, mx.array]:
        both = mx.unflatten(both, -1, (-1, 2))
        return both[..., 0], both[..., 1]

    def _scan(self, values: mx.array, memory: mx.array | None) -> tuple[mx.array, mx.array]:
        o = self._options
        heads = mx.unflatten(values, -1, (self._heads, -1)).transpose(0, 2, 1, 3)  # (B, H, L, C/H)
        dt, b, c = mx.split(self.x_proj(heads), [o.rank, o.rank + o.state_size], axis=-1)
        dt = self.dt_proj(dt).astype(mx.float32) + self.dt_proj_bias[:, None].astype(mx.float32)
        dt, decay = nn.softplus(dt), -mx.exp(self.A_log.astype(mx.float32))
        memories = [None] * self._heads if memory is None else mx.split(memory, self._heads, axis=1)
        parts = (
            kernels.diagonal_scan(heads[:, h], dt[:, h], decay[h], b[:, h], c[:, h], self.D[h], held)
            for h, held in enumerate(memories)
        )
        ys, after = map(list, zip(*parts, strict=True))
        return mx.concatenate(ys, axis=-1), mx.concatenate(after, axis=1)


class WideAttention(Attention):
    """Reads twice the width that it writes."""

    def __init__(self, options: AttentionOptions):
        super().__init__(options)
        self.o_proj = Linear(options.num_heads * options.head_dim, options.hidden_size // 2, bias=options.out_bias)


class SharedBlock(nn.Module):
    """Attention and a feed-forward, one after the other, without residuals."""

    def __init__(self, attention: nn.Module, feed_forward: nn.Module, args: SharedArgs):
        super().__init__()
        self.self_attn, self.feed_forward = attention, feed_forward
        self.input_layernorm = RMSNorm(2 * args.hidden_size, args.rms_norm_eps)
        self.pre_ff_layernorm = RMSNorm(args.hidden_size, args.rms_norm_eps)

    def __call__(self, x: mx.array, state: LayerState, call: int) -> mx.array:
        """x (B, L, 2D) -> (B, L, D); `call` counts the layers that call a block."""
        return self.feed_forward(self.pre_ff_layernorm(self.self_attn(self.input_layernorm(x), state)))


class HybridLayer(nn.Module):
    """A Mamba layer that hears a shared block, through a map of its own; the block stands at its first caller."""

    def __init__(self, layer: DecoderLayer, attention: StateSpec, width: int):
        super().__init__()
        self.mamba_decoder = layer
        self.linear = Linear(width, width, bias=False)
        self._attention = attention

    def state_spec(self) -> StateSpec:
        return ListSpec((self.mamba_decoder.state_spec(), self._attention))

    def __call__(self, x: mx.array, state: LayerState, heard: mx.array) -> mx.array:
        """x + mamba(norm(x + heard)): what the layer hears goes only through the mixer."""
        layer = self.mamba_decoder
        return x + layer.mamba(layer.input_layernorm(x + self.linear(heard)), state)


class SharingBackbone(Backbone):
    """Hands the embeddings and the shared blocks to the layers that call one."""

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        self._block_name = model.block_name
        self._owners = {index: (args.owner(index), call) for call, index in enumerate(args.calls())}

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        start, layers = h, self[self._names.layers]
        for i, layer in enumerate(layers):
            state = layer_state(cache, i)
            if i in self._owners:
                owner, call = self._owners[i]
                heard = layers[owner][self._block_name](mx.concatenate([h, start], axis=-1), part(state, 1), call)
                h = layer(h, part(state, 0), heard)
            else:
                h = layer(h, state)
        return self[self._names.norm](h)


class Model(CausalLM):
    names = ModelNames(norm="final_layernorm")
    backbone_type = SharingBackbone
    block_name: ClassVar[str] = "shared_transf"
    rules = (Rename(r"\.mamba\.(x_proj|dt_proj)_weight$", r".mamba.\1.weight"),)

    def weight_rules(self) -> tuple[Rule, ...]:
        # Checkpoints repeat a shared block at each layer that calls it.
        others = "|".join(str(i) for i in self.args.calls() if self.args.owner(i) != i)
        return (*super().weight_rules(), Drop(rf"layers\.({others or 'none'})\.{self.block_name}\."))

    def layer(self, args: Any, index: int) -> nn.Module:
        mamba = DecoderLayer(mixer=self.mamba(args), norm=lambda: self.final_norm(args), names=LayerNames("mamba"))
        if index not in args.calls():
            return mamba
        scale = (args.head_dim / 2) ** -0.5
        options = AttentionOptions(2 * args.hidden_size, *args.heads, rope=self.rope(args), scale=scale)
        layer = HybridLayer(mamba, Attention(options).state_spec(), args.hidden_size)
        if args.owner(index) == index:
            layer[self.block_name] = self.block(args, options, index)
        return layer

    def mamba(self, args: Any) -> nn.Module:
        return HeadedMamba(block_options(MambaOptions, args, inner_size=args.inner_size), args.n_mamba_heads)

    def rope(self, args: Any) -> Rope | None:
        return None

    def block(self, args: Any, options: AttentionOptions, index: int) -> nn.Module:
        """The shared block whose weights stand at layer `index`."""
        mlp = GatedMLP(args.hidden_size, args.intermediate_size, args.hidden_act)
        return SharedBlock(WideAttention(options), mlp, args)
