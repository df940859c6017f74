"""HRM-Text: two stacks of layers in turns, a fast one several times for each time of a slow one.

Every turn has keys and values of its own. A prompt is read causally, as transformers does where it is not told which
tokens are instructions. Source: https://huggingface.co/sapientinc/HRM-Text-1B.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import DecoderLayer, Embedding, GatedAttention, UnitRMSNorm, named
from ..state import LayerState, ListSpec, StateSpec, part
from .base import LlamaArgs, layer_state
from .config import refuse
from .dense import DenseModel
from .weights import Rename, Split


class ModelArgs(LlamaArgs):
    positive = ("H_cycles", "num_layers_per_stack", "initializer_range")
    head_dim: int | None = 128
    H_cycles: int = 2
    L_cycles: int = 3
    initializer_range: float = 0.02
    embedding_scale: float | None = None
    num_layers_per_stack: int | None = None

    def __post_init__(self) -> None:
        self.num_key_value_heads = self.num_attention_heads
        super().__post_init__()
        if self.num_layers_per_stack is None:  # else `num_hidden_layers` counts every turn of every layer
            self.num_layers_per_stack = self.num_hidden_layers
        refuse(self.L_cycles < 0, f"L_cycles must be at least 0, not {self.L_cycles}")


class TurnLayer(DecoderLayer):
    """Keeps something for each of its turns."""

    turns = 1

    def state_spec(self) -> StateSpec:
        return ListSpec((super().state_spec(),) * self.turns)


class Stack(nn.Module):
    """Hidden states (B, L, D) through all layers, normalized."""

    def __init__(self, layers: list[DecoderLayer], eps: float):
        super().__init__()
        self.layers = layers
        self.final_norm = UnitRMSNorm(eps)

    def __call__(self, x: mx.array, states: list[LayerState], turn: int) -> mx.array:
        for layer, state in zip(self.layers, states, strict=True):
            x = layer(x, part(state, turn))
        return self.final_norm(x)


class TurnBackbone(nn.Module):
    """Token ids (B, L) -> hidden states (B, L, D) of the slow stack's last turn."""

    def __init__(self, model: "Model", args: Any):
        super().__init__()
        self._cycles, self._scale = (args.H_cycles, args.L_cycles), args.embedding_scale or 1 / args.initializer_range
        self.embed_tokens = Embedding(args.vocab_size, args.hidden_size)
        for name, turns in (("L_module", args.H_cycles * args.L_cycles), ("H_module", args.H_cycles)):
            layers = [model.layer(args, i) for i in range(args.num_layers_per_stack)]
            for layer in layers:
                layer.turns = turns
            self[name] = Stack(layers, args.rms_norm_eps)
        self.z_L_init = mx.zeros((args.hidden_size,))

    def __call__(
        self, inputs: mx.array, cache: Sequence[LayerState] | None = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        slow = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        slow, fast = slow * self._scale, self.z_L_init
        count = len(self["L_module"].layers)
        states = [layer_state(cache, i) for i in range(2 * count)]
        cycles, steps = self._cycles
        for cycle in range(cycles):
            for step in range(steps):
                fast = self["L_module"](fast + slow, states[:count], cycle * steps + step)
            slow = self["H_module"](slow + fast, states[count:], cycle)
        return slow


class Model(DenseModel):
    backbone_type = TurnBackbone
    layer_type = TurnLayer
    attention_type = named(GatedAttention, biased_gate=True)
    rules = (
        Rename(r"\.attn\.", ".self_attn."),
        Split(r"(.*\.self_attn)\.gqkv_proj\.(\w+)", tuple(rf"\1.{n}_proj.\2" for n in ("gate", "q", "k", "v"))),
        Split(r"(.*\.mlp)\.gate_up_proj\.(\w+)", (r"\1.gate_proj.\2", r"\1.up_proj.\2")),
    )

    @property
    def layers(self) -> list[nn.Module]:
        return [*self["model"]["L_module"].layers, *self["model"]["H_module"].layers]

    def norm(self, args: Any) -> nn.Module:
        return UnitRMSNorm(args.rms_norm_eps)
