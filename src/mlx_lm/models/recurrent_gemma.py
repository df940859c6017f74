"""RecurrentGemma: real-gated linear recurrences and local attention. Source: https://arxiv.org/abs/2404.07839."""

from dataclasses import field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..nn import CausalConv, GatedMLP, LayerNames, Linear
from ..state import ArraySlot, LayerState, RecurrentSpec, StateSpec, gather_slot, offsets, scatter_slots
from .parts import DenseModel, ModelNames, SlidingArgs, refuse


class ModelArgs(SlidingArgs):
    aliases = {"attention_window_size": "sliding_window", "logits_soft_cap": "final_logit_softcapping"}
    multiples = {"lru_width": "num_attention_heads"}
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    partial_rotary_factor: float = 0.5
    attention_bias: bool = False
    sliding_window: int | None = 2048
    conv1d_width: int = 4
    lru_width: int | None = None
    final_logit_softcapping: float | None = 30.0
    block_types: list[str] = field(default_factory=lambda: ["recurrent", "recurrent", "attention"])

    def __post_init__(self) -> None:
        self.head_dim = None  # published configs' value is the same
        super().__post_init__()
        self.lru_width = self.lru_width or self.hidden_size
        known = self.block_types and set(self.block_types) <= {"recurrent", "attention"}
        refuse(not known, f"block_types may name 'recurrent' and 'attention', not {self.block_types}")

    def is_linear(self, index: int) -> bool:
        return self.block_types[index % len(self.block_types)] == "recurrent"


class GatedRecurrence(nn.Module):
    """h <- a*h + sqrt(1 - a^2) * i*x, with a and i from x by one matrix for each head; x (B, L, D)."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        size = width // num_heads
        self.recurrent_param = mx.zeros((width,))
        for gate in ("input_gate", "recurrent_gate"):
            self[f"{gate}_weight"] = mx.random.normal((num_heads, size, size)) * size**-0.5
            self[f"{gate}_bias"] = mx.zeros((num_heads, size))

    def __call__(self, x: mx.array, state: mx.array | None, start: int | mx.array) -> tuple[mx.array, mx.array]:
        log_decay = -8.0 * self._gate("recurrent_gate", x) * nn.softplus(self.recurrent_param.astype(mx.float32))
        scale = mx.sqrt(1 - mx.exp(2 * log_decay))
        first = (mx.arange(x.shape[1]) + mx.array(start)[..., None]) == 0  # (L,) or (B, L)
        scale = mx.where(first[..., None], 1.0, scale)
        inputs = x.astype(mx.float32) * self._gate("input_gate", x) * scale
        h, state = kernels.linear_recurrence(log_decay, inputs, state)
        return h.astype(x.dtype), state

    def _gate(self, name: str, x: mx.array) -> mx.array:
        heads = mx.unflatten(x.astype(mx.float32), -1, (self[f"{name}_bias"].shape[0], 1, -1))  # (B, L, H, 1, D/H)
        return mx.sigmoid((heads @ self[f"{name}_weight"])[..., 0, :] + self[f"{name}_bias"]).flatten(-2)


class RecurrentBlock(nn.Module):
    """out(act(y(x)) * recurrence(conv(x(x)))), x (B, L, D)."""

    def __init__(self, args: Any):
        super().__init__()
        self.act = args.hidden_act
        size, self.width = args.hidden_size, args.lru_width
        self.linear_y, self.linear_x = (Linear(size, self.width, bias=True) for _ in range(2))
        self.linear_out = Linear(self.width, size, bias=True)
        self.conv_1d = CausalConv(self.width, args.conv1d_width, bias=True)
        self.rg_lru = GatedRecurrence(self.width, args.num_attention_heads)

    def state_spec(self) -> StateSpec:
        """What the layer keeps for a sequence: the convolution's last inputs and the recurrence."""
        return RecurrentSpec((self.conv_1d.slot(), ArraySlot((self.width,), mx.float32)))

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        y = kernels.activation(self.linear_y(x), self.act)
        h, tail = self.conv_1d(self.linear_x(x), gather_slot(state, 0))
        h, memory = self.rg_lru(h, gather_slot(state, 1), offsets(state))
        scatter_slots(state, [tail, memory], x.shape[1])
        return self.linear_out(h * y)


class Model(DenseModel):
    names = ModelNames(norm="final_norm")
    layer_names = LayerNames("temporal_block", "mlp_block", "temporal_pre_norm", None, "channel_pre_norm")
    attention = {"out_bias": True}
    norm_options = {"offset": 1.0}

    def linear_mixer(self, args: Any, index: int) -> nn.Module:
        return RecurrentBlock(args)

    def feed_forward(self, args: Any, index: int) -> nn.Module:
        return GatedMLP(args.hidden_size, args.intermediate_size // 2, args.hidden_act, bias=True)

    def embed_scale(self, args: Any) -> float:
        rounded = mx.array(args.hidden_size**0.5, mx.bfloat16)  # as in training
        return rounded.astype(mx.float32).item()  # type: ignore[return-value]
