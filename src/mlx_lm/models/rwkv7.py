"""RWKV-7: a matrix for each head that fades by channel and unlearns what a key recalls. https://arxiv.org/abs/2503.14456."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import HeadNorm, LayerNorm, Linear, named
from ..state import ArraySlot
from .parts import CausalLM, LanguageArgs, ModelNames, PassingBackbone, Rule, Transform, refuse
from .rwkv import ShiftedLayer, shifted

_CHUNK = 16  # a channel fades to exp(-0.61 * 16) at most, so dividing by it stays exact enough
_RANKS = {"w": "decay_low_rank_dim", "a": "a_low_rank_dim", "v": "v_low_rank_dim", "g": "gate_low_rank_dim"}


class ModelArgs(LanguageArgs):
    multiples = {"hidden_size": "head_dim"}
    fixed = {"attn": (None,), "hidden_act": ("sqrelu",), "norm_first": (True,)}
    intermediate_size: int | None = None
    hidden_ratio: float = 4.0
    head_dim: int = 64
    norm_eps: float = 1e-5
    norm_bias: bool = True
    value_dim: int | list[int] | None = None
    decay_low_rank_dim: int = 64
    gate_low_rank_dim: int = 128
    a_low_rank_dim: int = 64
    v_low_rank_dim: int = 16

    def __post_init__(self) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 32 * -(-int(self.hidden_size * self.hidden_ratio) // 32)
        values = self.value_dim if isinstance(self.value_dim, list) else [self.value_dim]
        refuse(set(values) - {None, self.hidden_size}, f"value_dim={self.value_dim!r} is not supported for 'rwkv7'")


def fading_recall(
    reads: mx.array, decays: mx.array, keys: mx.array, values: mx.array, seeks: mx.array, adds: mx.array,
    memory: mx.array,
) -> tuple[mx.array, mx.array]:  # fmt: skip
    """S <- S diag(decay) + (S seek) add^T + value key^T; y = S read.

    All (B, H, L, D) in float32, decays in (exp(-0.61), 1), memory (B, H, D, D). Returns y and the memory.

    Within a chunk S is written as the memory before it plus what its tokens added, each faded since; what the
    tokens seek then solves a triangular system, by doubling.
    """
    out = []
    for start in range(0, reads.shape[2], _CHUNK):
        r, w, k, v, z, b = (a[:, :, start : start + _CHUNK] for a in (reads, decays, keys, values, seeks, adds))
        faded = mx.exp(mx.cumsum(mx.log(w), axis=2))  # (B, H, C, D), through each token
        r, z, k, b = r * faded, z * faded / w, k / faded, b / faded
        kt, bt, old = k.swapaxes(-1, -2), b.swapaxes(-1, -2), memory.swapaxes(-1, -2)
        size = r.shape[2]
        before = mx.tril(mx.ones((size, size)), -1)
        chain = (z @ bt) * before
        heard = z @ old + (z @ kt * before) @ v
        step = 1
        while step < size:  # (1 - chain)^-1 = (1 + chain)(1 + chain^2)(1 + chain^4)...
            heard = heard + chain @ heard
            chain, step = chain @ chain, 2 * step
        upto = mx.tril(mx.ones((size, size)))
        out.append(r @ old + (r @ bt * upto) @ heard + (r @ kt * upto) @ v)
        memory = (memory + heard.swapaxes(-1, -2) @ b + v.swapaxes(-1, -2) @ k) * faded[:, :, -1:]
    return mx.concatenate(out, axis=2), memory


class Narrow(nn.Module):
    """Two linear layers, an activation between them, a bias after the second."""

    def __init__(self, width: int, rank: int, act: Callable[[mx.array], mx.array], bias: bool):
        super().__init__()
        self._act = act
        self.lora = [Linear(width, rank, bias=False), nn.Identity(), Linear(rank, width, bias=bias)]

    def __call__(self, x: mx.array) -> mx.array:
        return self.lora[2](self._act(self.lora[0](x)))


class TimeMix(nn.Module):
    """x (B, L, D) with the input before it, the memory, and the first layer's values."""

    def __init__(self, args: ModelArgs, index: int):
        super().__init__()
        width, self._size = args.hidden_size, args.head_dim
        self._heads = width // args.head_dim
        for name in "rwkvag":
            self[f"x_{name}"] = mx.zeros((1, 1, width))
        for name in ("k_k", "k_a", "r_k"):
            self[name] = mx.zeros((self._heads, self._size))
        for name in "rkvo":
            self[f"{name}_proj"] = Linear(width, width, bias=False)
        acts = {"w": mx.tanh, "g": mx.sigmoid}
        for name, rank in _RANKS.items():
            if name != "v" or index:
                self[f"{name}_lora"] = Narrow(width, getattr(args, rank), acts.get(name, nn.Identity()), name != "g")
        self.g_norm = HeadNorm(self._heads, self._size, args.norm_eps * self._size, bias=True)

    def slot(self) -> ArraySlot:
        """The matrix of each head."""
        return ArraySlot((self._heads, self._size, self._size), mx.float32)

    def __call__(
        self, x: mx.array, last: mx.array | None, memory: mx.array | None, first: mx.array | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """The output (B, L, D), the memory, and the values that later layers mix in."""
        change = shifted(x, last) - x
        r, w, k, v, a, g = (x + change * self[f"x_{name}"] for name in "rwkvag")
        rate = mx.sigmoid(self["a_lora"](a))
        decay = mx.exp(-0.6065306597126334 * mx.sigmoid(self["w_lora"](w).astype(mx.float32)))
        values: mx.array = self["v_proj"](v)
        if first is not None:
            values = values + (first - values) * mx.sigmoid(self["v_lora"](v))
        parts = self["r_proj"](r), self["k_proj"](k), values, decay, rate
        r, k, v, decay, rate = (mx.unflatten(m, -1, (self._heads, -1)).astype(mx.float32) for m in parts)
        seek = k * self["k_k"].astype(mx.float32)
        seek = seek / mx.maximum(mx.linalg.norm(seek, axis=-1, keepdims=True), 1e-12)
        k = k * (1 + (rate - 1) * self["k_a"].astype(mx.float32))
        if memory is None:
            memory = mx.zeros((x.shape[0], self._heads, self._size, self._size), mx.float32)
        rows = (m.swapaxes(1, 2) for m in (r, decay, k, v, -seek, seek * rate))
        y, memory = fading_recall(*rows, memory=memory)
        y = self.g_norm(y).swapaxes(1, 2)
        y = y + (r * k * self["r_k"].astype(mx.float32)).sum(axis=-1, keepdims=True) * v
        y = y.flatten(2).astype(x.dtype) * self["g_lora"](g)
        return self["o_proj"](y), memory, values if first is None else first


class ChannelMix(nn.Module):
    """x (B, L, D) with the input before it -> (B, L, D)."""

    def __init__(self, args: Any):
        super().__init__()
        width, size = args.hidden_size, args.intermediate_size
        self.x_k = mx.zeros((width,))
        self.key, self.value = Linear(width, size, bias=False), Linear(size, width, bias=False)

    def __call__(self, x: mx.array, last: mx.array | None) -> mx.array:
        return self.value(kernels.activation(self.key(x + (shifted(x, last) - x) * self.x_k), "relu2"))


Layer = named(ShiftedLayer, part_names=("attn", "ffn"), norm_names=("pre_norm", "attn_norm", "ffn_norm"))


class Model(CausalLM):
    names = ModelNames(embed="embeddings")
    backbone_type = PassingBackbone

    def weight_rules(self) -> tuple[Rule, ...]:
        by_head, size = r"\.attn\.(k_k|k_a|r_k|g_norm\.weight|g_norm\.bias)$", self.args.head_dim
        return (*super().weight_rules(), Transform(by_head, lambda a: a.reshape(-1, size)))

    def layer(self, args: Any, index: int) -> ShiftedLayer:
        return Layer(index, args.hidden_size, (TimeMix(args, index), ChannelMix(args)), lambda: self.final_norm(args))

    def final_norm(self, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, args.norm_eps, bias=args.norm_bias)
