"""EXAONE 3: Llama under GPT-2's names. Source: https://arxiv.org/abs/2408.03541."""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import AttentionOptions, GatedMLP, LayerNames, OutProjAttention, named
from ..state import LayerState, StateSpec
from .parts import DenseModel, LlamaArgs, ModelNames


class ModelArgs(LlamaArgs):
    aliases = {"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"}
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True


class Nested(nn.Module):
    """Attention, one name further down."""

    def __init__(self, options: AttentionOptions):
        super().__init__()
        self.attention = OutProjAttention(options)

    def state_spec(self) -> StateSpec:
        return self.attention.state_spec()

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        return self.attention(x, state)


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="h", norm="ln_f")
    layer_names = LayerNames("attn", "mlp", "ln_1", None, "ln_2")
    feed_forward_type = named(GatedMLP, gate_name="c_fc_0", up_name="c_fc_1", down_name="c_proj")

    def mixer(self, args: Any, index: int) -> nn.Module:
        return Nested(self.attention_options(args, index))
