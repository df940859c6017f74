"""Regrouped heads and embeddings equal the plain ones, and step aside when the weights change."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_lm.kernels import native
from mlx_lm.nn import Embedding, Linear
from mlx_lm.nn.head import interleave_head

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
    interleave_head(layer)
    assert layer.interleaved is not None
    assert all(mx.allclose(a, b, atol=1e-5) for a, b in zip(before, run(), strict=True))
    # The parameters are still what they were, for saving.
    assert all(mx.array_equal(a, layer[n]) for a, n in zip(parameters, names, strict=True))


def test_new_weights_are_noticed():
    layer = Linear(64, 96, bias=False)
    interleave_head(layer)
    layer.weight = mx.zeros((96, 64))
    assert mx.abs(layer(mx.ones((2, 64)))).max().item() == 0
    layer = Linear(64, 96, bias=False)
    interleave_head(layer)
    layer.weight[:] = 0.0
    assert mx.abs(layer(mx.ones((2, 64)))).max().item() == 0


def test_copies_start_plain():
    layer = Linear(64, 96)
    interleave_head(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert mx.allclose(other(mx.ones((2, 64))), layer(mx.ones((2, 64))), atol=1e-5)
