"""xLSTM: a matrix memory with exponential gates in place of attention. Source: https://arxiv.org/abs/2503.13427.

The memory is computed and kept in float32, whatever a config says of its kernels' types.
"""

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import DecoderLayer, GatedMLP, HeadNorm, LayerNames, Linear, RMSNorm, named
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, scatter_slots
from .parts import BaseModelArgs, CausalLM, ModelNames, Rule, Split, refuse

_CHUNK = 64  # tokens whose products are computed together


class ModelArgs(BaseModelArgs):
    aliases = {"norm_eps": "rms_norm_eps", "output_logit_soft_cap": "final_logit_softcapping"}
    fixed = {"add_out_norm": (True,), "weight_mode": ("single", "fused")}
    multiples = {"key_size": "num_heads", "value_size": "num_heads"}
    positive = "final_logit_softcapping", "gate_soft_cap"
    tie_word_embeddings = False  # nothing in the family ties them, whatever a config says
    vocab_size: int = 50304
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_heads: int = 8
    use_bias: bool = False
    rms_norm_eps: float = 1e-6
    eps: float = 1e-6
    qk_dim_factor: float = 0.5
    v_dim_factor: float = 1.0
    ffn_proj_factor: float = 2.667
    ffn_round_up_to_multiple_of: int = 64
    gate_soft_cap: float = 15.0
    final_logit_softcapping: float = 30.0

    @classmethod
    def prepared(cls, flat: dict[str, Any]) -> dict[str, Any]:
        """`num_blocks` goes before `num_hidden_layers`."""
        if flat.get("num_blocks") is not None:
            flat["num_hidden_layers"] = flat["num_blocks"]
        width = flat.setdefault("hidden_size", flat.get("embedding_dim") or cls.hidden_size)
        other = flat.get("embedding_dim")
        refuse(other not in (None, width), f"embedding_dim={other} is not hidden_size={width}")
        return flat

    def __post_init__(self) -> None:
        sizes = {"qk_dim": self.key_size, "v_dim": self.value_size, "ffn_proj": self.feed_forward_size}
        for name, size in sizes.items():
            refuse(not 1 <= size < 2**31, f"{name}_factor gives {size} features, which is not possible")

    @property
    def key_size(self) -> int:
        return int(self.hidden_size * self.qk_dim_factor)

    @property
    def value_size(self) -> int:
        return int(self.hidden_size * self.v_dim_factor)

    @property
    def feed_forward_size(self) -> int:
        unit = self.ffn_round_up_to_multiple_of
        return int((self.hidden_size * self.ffn_proj_factor + unit - 1) // unit * unit)


class ShiftedNorm(RMSNorm):
    """A root-mean-square norm with a bias."""

    def __init__(self, dims: int, eps: float):
        super().__init__(dims, eps)
        self.bias = mx.zeros((dims,))

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) + self.bias


def remember(
    q: mx.array, k: mx.array, v: mx.array, write: mx.array, forget: mx.array, state: tuple[mx.array, ...], eps: float
) -> tuple[mx.array, tuple[mx.array, ...]]:
    """One chunk: q (scaled) and k (B, H, L, K), v (B, H, L, V), log gates for new (`write`) and old (B, H, L).

    `state` is the memory (B, H, K, V+1), whose last column sums keys, and the exponent that it is relative to (B, H).
    Returns (B, H, L, V) and the next state.
    """
    memory, top = state
    kept = mx.cumsum(forget, axis=-1)
    above = kept + mx.maximum(top[..., None], mx.cummax(write - kept, axis=-1))  # each token's exponent
    shares = kept[..., :, None] - kept[..., None, :] + (write[..., None, :] - above[..., :, None])
    length = q.shape[2]
    shares = mx.exp(mx.where(mx.tri(length, dtype=mx.bool_), shares, -mx.inf))  # (B, H, L, L)
    v = mx.concatenate([v, mx.ones_like(v[..., :1])], axis=-1)
    old = mx.exp(kept + top[..., None] - above)[..., None]
    total = (q @ k.swapaxes(-1, -2) * shares) @ v + (q * old) @ memory
    y = total[..., :-1] / (mx.maximum(mx.abs(total[..., -1:]), mx.exp(-above)[..., None]) + eps)
    memory = memory * old[..., -1:, :] + (k * shares[..., -1, :, None]).swapaxes(-1, -2) @ v
    return y, (memory, above[..., -1])


class MatrixMemory(nn.Module):
    """x (B, L, D) -> (B, L, D)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        width, keys, values, heads = args.hidden_size, args.key_size, args.value_size, args.num_heads
        self._heads, self._cap, self._eps = heads, args.gate_soft_cap, args.eps
        self._sizes = keys // heads, values // heads
        for name, size in (("q", keys), ("k", keys), ("v", values), ("ogate_preact", values)):
            self[name] = Linear(width, size, bias=args.use_bias)
        self.igate_preact, self.fgate_preact = (Linear(width, heads, bias=True) for _ in range(2))
        self.multihead_norm = HeadNorm(heads, self._sizes[1], args.rms_norm_eps, bias=args.use_bias, flat=True)
        self.out_proj = Linear(values, width, bias=args.use_bias)

    def state_spec(self) -> StateSpec:
        """The memory and its exponent."""
        keys, values = self._sizes
        memory = ArraySlot((self._heads, keys, values + 1), mx.float32)
        return RecurrentSpec((memory, ArraySlot((self._heads,), mx.float32)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        q, k, v = (
            mx.unflatten(self[name](x).astype(mx.float32), -1, (self._heads, -1)).transpose(0, 2, 1, 3)
            for name in "qkv"
        )
        write, forget = (
            self._cap * mx.tanh(self[f"{name}gate_preact"](x).astype(mx.float32) / self._cap).swapaxes(1, 2)
            for name in "if"
        )
        q, forget = q * self._sizes[0] ** -0.5, -nn.softplus(-forget)
        memory, top = gather_slot(state, 0), gather_slot(state, 1)
        if memory is None or top is None:
            memory = mx.zeros((*k.shape[:2], k.shape[3], v.shape[3] + 1), mx.float32)
            top = mx.zeros(k.shape[:2], mx.float32)
        parts, now = [], (memory, top)
        for start in range(0, x.shape[1], _CHUNK):
            some = (a[:, :, start : start + _CHUNK] for a in (q, k, v, write, forget))
            y, now = remember(*some, state=now, eps=self._eps)
            parts.append(y)
        scatter_slots(state, now, x.shape[1])
        y = mx.concatenate(parts, axis=2)
        y = self.multihead_norm(y.astype(x.dtype)).transpose(0, 2, 1, 3).flatten(2)
        return self.out_proj(mx.sigmoid(self.ogate_preact(x)) * y)


FeedForward = named(GatedMLP, gate_name="proj_up_gate", up_name="proj_up", down_name="proj_down")


class Model(CausalLM):
    names = ModelNames("backbone", "embeddings", "blocks", "out_norm")

    def weight_rules(self) -> tuple[Rule, ...]:
        """Checkpoints hold projections of the same input apart or together."""
        args = self.args
        keys, values, heads, inner = args.key_size, args.value_size, args.num_heads, args.feed_forward_size
        fused = {
            "qkv_opreact": {"q": keys, "k": keys, "v": values, "ogate_preact": values},
            "ifgate_preact": {"igate_preact": heads, "fgate_preact": heads},
            "proj_up_gate_z": {"proj_up_gate": inner, "proj_up": inner},
        }
        rules = (
            Split(rf"(.*\.){name}\.(\w+)", tuple(rf"\1{part}.\2" for part in parts), sizes=tuple(parts.values()))
            for name, parts in fused.items()
        )
        return (*super().weight_rules(), *rules)

    def layer(self, args: Any, index: int) -> DecoderLayer:
        return DecoderLayer(
            mixer=MatrixMemory(args),
            feed_forward=FeedForward(args.hidden_size, args.feed_forward_size, bias=args.use_bias),
            norm=partial(ShiftedNorm if args.use_bias else RMSNorm, args.hidden_size, args.rms_norm_eps),
            names=LayerNames("mlstm_layer", "ffn", "norm_mlstm", None, "norm_ffn", None),
        )
