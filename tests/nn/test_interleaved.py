"""Regrouped heads and embeddings equal the plain ones, and step aside when the weights change."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_lm.kernels import native
from mlx_lm.models.build import build_model
from mlx_lm.nn import Embedding, Linear
from mlx_lm.nn.interleaved import interleave_weights, interleaved
from mlx_lm.nn.linear import QuantizedLinear, QuantizedSwitchLinear, SwitchLinear

pytestmark = pytest.mark.skipif(native.extension() is None, reason="needs the native kernels")


def layers():
    mx.random.seed(0)
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        for make in (lambda: Embedding(96, 64), lambda: Linear(64, 96)):
            for bits in (None, 4, 8):
                layer = make()
                layer.set_dtype(dtype)
                yield layer if bits is None else layer.to_quantized(32, bits)


@pytest.mark.parametrize("index", range(18))
def test_regrouped_layers_equal_plain_ones(index):
    layer = list(layers())[index]
    embeds = isinstance(layer, nn.Embedding | nn.QuantizedEmbedding)
    x, ids = mx.random.normal((3, 64)), mx.array([[0, 95, 17], [17, 1, 40]])

    def run():
        return (layer.as_linear(x), layer(ids)) if embeds else (layer(x),)

    names = [n for n in ("weight", "scales", "biases") if n in layer]
    before, parameters = run(), [mx.array(layer[n]) for n in names]
    mx.eval(before, parameters)
    interleave_weights(layer)
    assert layer.interleaved is not None
    assert all(mx.allclose(a, b, atol=1e-5) for a, b in zip(before, run(), strict=True))
    # The parameters are still what they were, for saving.
    assert all(mx.array_equal(a, layer[n]) for a, n in zip(parameters, names, strict=True))


def test_new_weights_are_noticed():
    layer = Linear(64, 96, bias=False)
    interleave_weights(layer)
    layer.weight = mx.zeros((96, 64))
    assert mx.abs(layer(mx.ones((2, 64)))).max().item() == 0
    layer = Linear(64, 96, bias=False)
    interleave_weights(layer)
    layer.weight[:] = 0.0
    assert mx.abs(layer(mx.ones((2, 64)))).max().item() == 0


def test_copies_start_plain():
    layer = Linear(64, 96)
    interleave_weights(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert mx.allclose(other(mx.ones((2, 64))), layer(mx.ones((2, 64))), atol=1e-5)


@pytest.mark.parametrize("mode", [None, "affine", "mxfp4"])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_regrouped_experts_equal_plain_ones(mode, tokens):
    mx.random.seed(1)
    layer = SwitchLinear(64, 48, 5)
    layer.bias = mx.random.normal(layer.bias.shape)
    layer = layer if mode is None else layer.to_quantized(32, 4, mode)
    x, indices = mx.random.normal((tokens, 1, 1, 64)), mx.random.randint(0, 5, (tokens, 2)).astype(mx.uint32)
    before = layer(x, indices)
    mx.eval(before)
    assert interleave_weights(layer) is not None
    assert mx.allclose(layer(x, indices), before, atol=1e-5)
    layer.weight = mx.zeros_like(layer.weight)
    layer(x, indices)
    assert layer.interleaved is None  # nothing is kept for weights that are gone


def test_evaluating_the_parameters_does_not_keep_them_twice():
    layer = Linear(1024, 1024, bias=False)
    mx.eval(layer.parameters())
    before = mx.get_active_memory()
    interleave_weights(layer)
    assert mx.get_active_memory() <= before + 4096
    x = mx.ones((1, 1024))
    expected = layer(x)
    mx.eval(expected)
    mx.eval(layer.parameters())  # saving, or a caller that makes sure that everything is loaded
    assert mx.get_active_memory() > before + 4_000_000
    assert mx.array_equal(layer(x), expected)
    assert mx.get_active_memory() <= before + 65536
    assert interleaved(layer) is not None


def test_every_linear_layer_of_layers_that_are_not_fused():
    sizes = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    model = build_model({"model_type": "mixtral", **sizes})
    nn.quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    before, ids = mx.get_active_memory(), mx.array([[3, 1, 4, 1, 5]])
    plain = model(ids)
    stated = model(ids, model.make_cache())
    assert mx.allclose(plain, stated, atol=1e-4)
    kinds = (QuantizedLinear, QuantizedSwitchLinear)
    found = [m for m in model.layers[1].modules() if isinstance(m, kinds)]
    assert len(found) == 8 and sum(interleaved(m) is None for m in found) == 1  # the router has 4 rows
    del plain, stated
    mx.eval(model.parameters())
    mx.eval(model(ids, model.make_cache()))
    assert mx.get_active_memory() <= before * 1.05 + 65536
