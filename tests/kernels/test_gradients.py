"""Gradients of the native operations, by finite differences in float64 and against the plain expressions."""

import functools
import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten
from operands import array, as_float64

from mlx_lm import kernels
from mlx_lm.kernels import KVView, linear, native
from mlx_lm.models.build import build_model
from mlx_lm.nn.lora import lora_layer

EXT = native.extension()
pytestmark = [
    pytest.mark.skipif(EXT is None, reason="the native kernels are not installed"),
    pytest.mark.usefixtures("isa"),
]
SLOW = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _agree(function, oracle, arguments: list[mx.array], tolerance: float = 2e-4) -> None:
    """The gradient of sum(weigh * function) along random directions is the slope of the float64 `oracle`."""
    weigh = as_float64(array(99, oracle(*map(as_float64, arguments)).shape))

    def loss(*a):
        return (function(*a).astype(mx.float32) * mx.array(weigh, mx.float32)).sum()

    gradients = mx.grad(loss, argnums=list(range(len(arguments))))(*arguments)
    gradients = (gradients,) if isinstance(gradients, mx.array) else gradients
    for i, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        assert gradient.shape == argument.shape and gradient.dtype == argument.dtype
        for seed in range(3):
            direction = np.random.default_rng(7 + seed).standard_normal(argument.shape)
            wide = [as_float64(a) for a in arguments]
            values = []
            for sign in (1, -1):
                moved = [a + sign * 1e-5 * direction if j == i else a for j, a in enumerate(wide)]
                values.append((oracle(*moved) * weigh).sum())
            slope, found = (values[0] - values[1]) / 2e-5, (as_float64(gradient) * direction).sum()
            size = np.abs(as_float64(gradient) * direction).sum()
            # A small gradient may be what is left of large terms: that of a sink is summed over all queries.
            assert abs(slope - found) <= tolerance * max(size, 1.0), (i, slope, found)


def _oracle(q, k, v, sinks=None, *, scale, window=None, keep=0, softcap=None):
    heads, length, total = q.shape[1], q.shape[2], k.shape[2]
    k, v = (np.repeat(a, heads // a.shape[1], axis=1) for a in (k, v))
    scores = scale * q @ np.swapaxes(k, -1, -2)
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    position, key = np.arange(total - length, total)[:, None], np.arange(total)[None]
    seen = key <= position
    if window is not None:
        seen &= (position - key < window) | (key < keep)
    scores = np.where(seen, scores, -np.inf)
    extra = np.full((1, heads, 1, 1), -np.inf) if sinks is None else sinks[None, :, None, None]
    peak = np.maximum(scores.max(-1, keepdims=True), extra)
    weights = np.exp(scores - peak)
    return weights / (weights.sum(-1, keepdims=True) + np.exp(extra - peak)) @ v


@SLOW
@given(data=st.data())
def test_attention(data):
    kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    batch, length = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 2, 7, 33, 70]))
    total = length + data.draw(st.sampled_from([0, 0, 3, 40]))
    key_dim, value_dim = (data.draw(st.sampled_from([8, 17, 64, 80])) for _ in range(2))
    dtype = data.draw(st.sampled_from([mx.float32, mx.float32, mx.float16, mx.bfloat16]))
    window = data.draw(st.sampled_from([None, 1, 5, 40]))
    options = {
        "scale": key_dim**-0.5,
        "window": window,
        "keep": data.draw(st.integers(0, 6)) if window else 0,
        "softcap": data.draw(st.sampled_from([None, 5.0])),
    }
    arguments = [
        array(1, (batch, kv_heads * group, length, key_dim), dtype),
        array(2, (batch, kv_heads, total, key_dim), dtype),
        array(3, (batch, kv_heads, total, value_dim), dtype),
    ]
    if data.draw(st.booleans()):
        arguments.append(array(4, (kv_heads * group,)))

    def function(q, k, v, sinks=None):
        view = KVView(k, v, options["window"], options["keep"])
        return kernels.attention(q, (view,), scale=options["scale"], softcap=options["softcap"], sinks=sinks)

    assert EXT is not None
    EXT.set_num_threads(data.draw(st.sampled_from([1, 2, 3])))
    half = {mx.float32: 2e-4, mx.float16: 4e-3, mx.bfloat16: 2e-2}[dtype]
    _agree(function, functools.partial(_oracle, **options), arguments, half)


def test_attention_of_unlike_lengths_and_strided_inputs():
    q = array(1, (2, 5, 4, 32)).swapaxes(1, 2)
    sides = [array(i, (1, 2, n, 32)) for i, n in ((2, 9), (3, 9), (4, 31), (5, 31))]

    def function(q, *sides):
        views = (KVView(*sides[:2]), KVView(sides[2][:, :, ::-1], sides[3]))
        return kernels.attention(q, views, scale=0.2).swapaxes(1, 2)

    def oracle(q, *sides):
        parts = (q[:1], *sides[:2]), (q[1:], sides[2][:, :, ::-1], sides[3])
        return np.concatenate([_oracle(*p, scale=0.2) for p in parts]).swapaxes(1, 2)

    _agree(function, oracle, [q, *sides])


def test_attention_under_vmap_compile_and_without_gradients():
    q, k, v = (array(i, (3, 1, 2, 6, 16)) for i in range(3))

    def loss(q, k, v):
        return (kernels.attention(q, (KVView(k, v),), scale=0.25) ** 2).sum()

    one = [mx.grad(loss, argnums=(0, 1, 2))(q[i], k[i], v[i]) for i in range(3)]
    every = mx.vmap(mx.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    shared = mx.vmap(mx.grad(loss), in_axes=(0, None, None))(q, k[0], v[0])
    for j in range(3):
        assert mx.allclose(every[j], mx.stack([g[j] for g in one]), atol=1e-5)
    assert mx.allclose(shared[0], one[0][0], atol=1e-5)
    values = mx.vmap(loss)(q, k, v)
    assert mx.allclose(values, mx.stack([loss(q[i], k[i], v[i]) for i in range(3)]), rtol=1e-4)


def _rms(x, w=None, *, eps, offset=0.0):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if w is None else y * (w + offset)


def _layer(x, w=None, b=None, *, eps):
    d = x - x.mean(-1, keepdims=True)
    y = d / np.sqrt((d * d).mean(-1, keepdims=True) + eps)
    y = y if w is None else y * w
    return y if b is None else y + b


@SLOW
@given(data=st.data())
def test_norms(data):
    shape = (*data.draw(st.lists(st.integers(1, 5), max_size=2)), data.draw(st.sampled_from([1, 5, 16, 33, 200])))
    dtype = data.draw(st.sampled_from([mx.float32, mx.float32, mx.bfloat16]))
    x = array(1, shape, dtype)
    weights = [array(i, shape[-1:]) for i in range(2, 2 + data.draw(st.integers(0, 2)))]
    half = 1e-3 if dtype == mx.float32 else 2e-2
    assert EXT is not None
    EXT.set_num_threads(data.draw(st.sampled_from([1, 2, 3])))

    def layer(x, w=None, b=None):
        return kernels.layer_norm(x, w, b, 1e-1)

    _agree(layer, functools.partial(_layer, eps=1e-1), [x, *weights], half)
    offset = 1.0 if weights[:1] else 0.0

    def rms(x, w=None):
        return kernels.rms_norm(x, w, 1e-1, offset=offset)

    _agree(rms, functools.partial(_rms, eps=1e-1, offset=offset), [x, *weights[:1]], half)


def _act(name):
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    cubic = np.sqrt(2 / np.pi) * 2
    return {
        "silu": lambda v: v * sigmoid(v),
        "gelu": lambda v: v * 0.5 * (1 + np.vectorize(math.erf)(v / np.sqrt(2))),
        "gelu_pytorch_tanh": lambda v: v * sigmoid(cubic * (v + 0.044715 * v**3)),
        "quick_gelu": lambda v: v * sigmoid(1.702 * v),
        "relu": lambda v: np.maximum(v, 0),
        "relu2": lambda v: np.maximum(v, 0) ** 2,
        "sigmoid": sigmoid,
        "tanh": np.tanh,
    }[name]


@pytest.mark.parametrize(
    "name", ["silu", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "sigmoid", "tanh"]
)
def test_activations(name):
    gate, up = array(1, (3, 4, 37)) * 3, array(2, (4, 3, 37)).swapaxes(0, 1)
    act = _act(name)
    _agree(lambda g: kernels.activation(g, name), act, [gate])
    _agree(lambda g, u: kernels.gated_activation(g, u, name), lambda g, u: act(g) * u, [gate, up])
    half = (gate.astype(mx.bfloat16), up.astype(mx.float16))
    _agree(lambda g, u: kernels.gated_activation(g, u, name), lambda g, u: act(g) * u, list(half), 2e-2)


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("offset", [0, 5, [3, 11]])
def test_rope(traditional, offset):
    x = array(1, (2, 3, 7, 40))
    freqs = mx.array(100.0) ** (mx.arange(0, 32, 2) / 32)

    def oracle(x):
        first = np.broadcast_to(np.array(offset), (2,))[:, None, None, None]
        angle = (first + np.arange(7)[:, None]) / np.array(freqs).astype(np.float64)
        pair = (slice(0, 32, 2), slice(1, 32, 2)) if traditional else (slice(0, 16), slice(16, 32))
        a, b, y = x[..., pair[0]], x[..., pair[1]], x.copy()
        y[..., pair[0]], y[..., pair[1]] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return y

    at = mx.array(offset) if isinstance(offset, list) else offset
    _agree(lambda x: kernels.rope(x, 32, traditional=traditional, offset=at, freqs=freqs), oracle, [x])
    by_base = kernels.rope(x, 32, traditional=traditional, offset=at, base=100.0)
    assert mx.allclose(by_base, mx.array(oracle(as_float64(x)), mx.float32), atol=1e-5)


@SLOW
@given(
    n=st.integers(1, 70), k=st.integers(1, 130), rows=st.integers(1, 20), interleaved=st.booleans(),
    fmt=st.sampled_from([None, *(("affine", 32, b) for b in (2, 4, 5)), ("mxfp4", 32, 4), ("nvfp4", 16, 4)]),
)  # fmt: skip
def test_products(n, k, rows, interleaved, fmt):
    k = k if fmt is None else max(fmt[1], 32) * (k % 4 + 1)
    n, k = (16 * (n % 4 + 1), 64 * (k % 3 + 1)) if interleaved else (n, k)
    w, x = array(1, (n, k)), array(2, (rows, k))
    if fmt is None:
        held = linear.interleave(w) if interleaved else w
        _agree(lambda x: kernels.matmul(x, held, interleaved=interleaved), lambda x: x @ as_float64(w).T, [x])
        if not interleaved:
            _agree(kernels.matmul, lambda x, w: x @ w.T, [x, w])
        return
    mode, group, bits = fmt
    parts = mx.quantize(w, group_size=group, bits=bits, mode=mode)
    wide = as_float64(mx.dequantize(*parts, group_size=group, bits=bits, mode=mode))
    held = [linear.interleave(p, dense=False) for p in parts] if interleaved else parts
    options = {"group_size": group, "bits": bits, "mode": mode, "interleaved": interleaved}
    _agree(lambda x: kernels.quantized_matmul(x, *held, **options), lambda x: x @ wide.T, [x])
    back = array(3, (rows, n))
    _agree(lambda x: kernels.quantized_matmul(x, *held, transpose=False, **options), lambda x: x @ wide, [back])


@pytest.mark.parametrize("packed", [False, True])
def test_gathered_products(packed):
    w, x = array(1, (4, 24, 64)), array(2, (5, 1, 1, 64))
    indices = mx.array([[0, 2], [1, 1], [3, 0], [2, 2], [0, 1]], dtype=mx.uint32)
    parts = mx.quantize(w, group_size=32, bits=4)
    wide = as_float64(mx.dequantize(*parts, group_size=32, bits=4) if packed else w)

    def function(x):
        if packed:
            return kernels.gather_quantized_matmul(x, *parts, indices, group_size=32, bits=4)
        return kernels.gather_matmul(x, w, indices)

    _agree(function, lambda x: np.einsum("bmk,bink->bimn", x[:, 0], wide[np.array(indices)]), [x])


def test_chosen_experts_gradient_reaches_dense_experts():
    w, x = array(1, (3, 8, 32)), array(2, (4, 1, 1, 32))
    indices = mx.array([[0, 2], [1, 1], [2, 0], [2, 1]], dtype=mx.uint32)

    def oracle(x, w):
        return np.einsum("bmk,bink->bimn", x[:, 0], w[np.array(indices)])

    _agree(lambda x, w: kernels.gather_matmul(x, w, indices), oracle, [x, w])


def test_every_operation_under_compile_and_vmap():
    x, w = array(1, (3, 2, 4, 32)), array(2, (32,))

    def function(x):
        y = kernels.rope(kernels.rms_norm(x[None] if x.ndim == 3 else x, w, 1e-5), 32, base=100.0)
        y = kernels.gated_activation(y, kernels.layer_norm(y, w, w, 1e-5), "silu")
        return kernels.attention(y, (KVView(y, y),), scale=0.2)

    plain = function(x)
    assert mx.allclose(mx.compile(function)(x), plain, atol=1e-5)
    assert mx.allclose(mx.vmap(function)(x)[:, 0], plain, atol=1e-5)
    step = mx.grad(lambda x: (function(x) ** 2).sum())
    assert mx.allclose(mx.compile(step)(x), step(x), atol=1e-4)
    assert mx.allclose(mx.vmap(step)(x), step(x), atol=1e-4)


@pytest.mark.parametrize("transpose", [True, False])
def test_scales_and_biases_can_be_trained(transpose):
    w, x = array(1, (24, 64)), array(2, (2, 5, 64 if transpose else 24))
    codes, scales, biases = mx.quantize(w, group_size=32, bits=4)
    wide = as_float64(mx.dequantize(codes, mx.ones_like(scales), mx.zeros_like(scales), group_size=32, bits=4))

    def function(x, scales, biases):
        return kernels.quantized_matmul(x, codes, scales, biases, group_size=32, transpose=transpose)

    def oracle(x, scales, biases):
        w = wide * np.repeat(scales, 32, -1) + np.repeat(biases, 32, -1)
        return x @ (w.T if transpose else w)

    _agree(function, oracle, [x, scales, biases])


SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "head_dim": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 9, "query_pre_attn_scalar": 32},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_training_step_of_adapters_is_the_same_without_the_native_kernels(name, monkeypatch):
    mx.random.seed(5)
    model = build_model({"model_type": name, **SIZES, **FAMILIES[name]})
    nn.quantize(model, group_size=32, bits=4)
    model.freeze()
    for path, layer in list(model.named_modules()):
        if "layers" not in path or not hasattr(layer, "group_size") or path.endswith(("gate", "router")):
            continue
        adapted = lora_layer(layer, 4, 0.0, 2.0)
        assert adapted is not None
        for part in ("lora_a", "lora_b"):
            adapted[part] = 0.1 * mx.random.normal(adapted[part].shape)
        model.update_modules(tree_unflatten([(path, adapted)]))
    ids = mx.array([[(7 * i * i + 3 * i) % 97 for i in range(25)], [(5 * i * i + i) % 97 for i in range(25)]])

    def loss(model):
        return nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).mean()

    step = nn.value_and_grad(model, loss)
    value, gradients = step(model)
    mx.eval(value, gradients)
    monkeypatch.setattr(native, "extension", lambda: None)
    plain_value, plain = step(model)
    assert abs(value.item() - plain_value.item()) < 1e-4
    found, expected = (dict(tree_flatten(g)) for g in (gradients, plain))
    assert found.keys() == expected.keys() and len(found) == 2 * 2 * 7
    for key, gradient in found.items():
        size = mx.abs(expected[key]).max().item()
        assert mx.abs(gradient - expected[key]).max().item() <= 2e-4 * size + 1e-7, key
        assert size > 0, key
