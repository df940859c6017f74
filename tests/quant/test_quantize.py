"""Quantizing and dequantizing single layers."""

import mlx.core as mx
import mlx.nn as nn

from mlx_lm.nn import Embedding, HeadLinear, Linear, SwitchLinear
from mlx_lm.nn.lora import lora_layer
from mlx_lm.quant import dequantize_model


class _AllKinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.embedding = Linear(64, 32), Embedding(32, 64)
        self.experts, self.heads = SwitchLinear(64, 32, 3), HeadLinear(64, 32, 3)


def test_every_kind_of_packed_layer_becomes_dense_again():
    model = _AllKinds()
    kinds = {name: type(layer) for name, layer in model.items()}
    weights = {name: layer.weight for name, layer in model.items()}
    nn.quantize(model, group_size=32, bits=8)
    assert all("scales" in layer for layer in model.values())
    dequantize_model(model, mx.float32)
    for name, layer in model.items():
        assert type(layer) is kinds[name] and "scales" not in layer
        assert mx.allclose(layer.weight, weights[name], atol=2e-2)


def test_matrices_of_heads_take_no_adapter_of_experts():
    model = _AllKinds()
    assert lora_layer(model.experts, 2, 0.0, 1.0) is not None
    assert lora_layer(model.heads, 2, 0.0, 1.0) is None
