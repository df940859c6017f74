"""Fused layers: equal to the ordinary path, to themselves in every split, and pure towards whoever holds a state."""

import copy

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from mlx_lm.kernels import fused, native
from mlx_lm.models.build import build_model
from mlx_lm.nn.lora import LoRALinear
from mlx_lm.state import KVOptions

EXT = native.extension()
pytestmark = pytest.mark.skipif(not fused.available(), reason="the native kernels are not installed")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "llama": {},
    "llama biased": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 9},
    "gemma2": {"sliding_window": 9, "query_pre_attn_scalar": 32},
    "gemma3_text": {"sliding_window": 9},
    "olmo2": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {},
}
IDS = mx.array([[(7 * i * i + 3 * i) % 97 for i in range(60)]])


def _model(name: str = "llama", bits: int = 4, dtype: mx.Dtype = mx.float32, **sizes) -> nn.Module:
    mx.random.seed(3)
    model = build_model({"model_type": name.split()[0], **SIZES, **FAMILIES[name], **sizes})
    model.set_dtype(dtype)
    model.update(tree_map(lambda a: a + 0.1 * mx.random.normal(a.shape).astype(a.dtype), model.parameters()))
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    mx.eval(model.parameters())
    return model


def _run(model: nn.Module, *chunks: int, cache=None) -> mx.array:
    cache, out, start = cache or model.make_cache(), [], 0
    for n in chunks:
        out.append(model(IDS[:, start : start + n], cache))
        start += n
    return mx.concatenate(out, axis=1)


def _segments(model: nn.Module) -> list[bool]:
    return [s.plan is not None for s in model.model._runner._segments]


def _close(a: mx.array, b: mx.array, tolerance: float = 1e-4) -> None:
    assert mx.abs(a - b).max().item() <= tolerance * mx.abs(b).max().item()


@pytest.mark.parametrize("isa", EXT.supported_isas() if EXT is not None else [])
@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_equals_the_ordinary_path(name, bits, isa):
    EXT.set_isa(isa)
    model = _model(name, bits)
    plain = model(IDS)  # without states nothing is fused
    whole = _run(model, 60)
    assert _segments(model) == [True]
    _close(whole, plain)
    assert mx.array_equal(_run(model, 1, 2, 7, 13, 30, *[1] * 7), whole)
    EXT.set_num_threads(1)
    assert mx.array_equal(_run(model, 23, 1, 36), whole)


@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_a_batch_of_unlike_lengths_equals_its_rows(mode):
    EXT.set_activations(mode)
    model = _model("gemma3_text")
    whole = _run(model, 60)
    caches = [model.make_cache() for _ in range(10)]
    for i, cache in enumerate(caches):
        _run(model, 5 + 4 * i, cache=cache)
    rows = [[cache[layer] for cache in caches] for layer in range(3)]
    for step in (3, 1):
        starts = [cache[0].offset for cache in caches]
        out = model(mx.concatenate([IDS[:, s : s + step] for s in starts]), rows)
        for i, s in enumerate(starts):
            assert mx.array_equal(out[i], whole[0, s : s + step])
    one = model.make_cache()  # one state that holds all rows
    both = mx.concatenate([model(mx.concatenate([IDS, IDS])[:, s : s + 20], one) for s in (0, 20, 40)], axis=1)
    assert mx.array_equal(both[0], whole[0]) and mx.array_equal(both[1], whole[0])


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("bits", [0, 4])
def test_half_types(dtype, bits):
    model = _model("llama", bits, dtype)
    out = _run(model, 10, 50)
    assert out.dtype == dtype
    _close(out.astype(mx.float32), model(IDS).astype(mx.float32), 5e-2)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_other_formats(mode):
    model = _model(bits=0)
    nn.quantize(model, mode=mode)
    _close(_run(model, 30, 30), model(IDS))
    assert _segments(model) == [True]


def test_views_copies_and_marks_keep_their_content():
    model = _model()
    cache = model.make_cache()
    whole = _run(model, 60)
    _run(model, 20, cache=cache)
    held = [s.keys_and_values() for s in cache]
    kept = [(mx.array(k), mx.array(v)) for k, v in held]
    copies = [s.copy() for s in cache]
    marks = [s.snapshot() for s in cache]
    first = model(IDS[:, 20:30], cache)
    for state in cache:
        state.trim(15)
    second = model(IDS[:, 40:50], cache)  # other tokens over the trimmed ones
    mx.eval(second)  # before `first`, which is still pending
    assert mx.array_equal(first, whole[:, 20:30])
    for (k, v), (k0, v0) in zip(held, kept, strict=True):
        assert mx.array_equal(k, k0) and mx.array_equal(v, v0)
    assert mx.array_equal(model(IDS[:, 20:30], copies), whole[:, 20:30])
    fresh = model.make_cache()
    _run(model, 20, cache=fresh)
    marks = [s.snapshot() for s in fresh]
    model(IDS[:, 33:40], fresh)  # never evaluated
    for state, mark in zip(fresh, marks, strict=True):
        state.restore(mark)
    assert mx.array_equal(model(IDS[:, 20:60], fresh), whole[:, 20:60])


def test_states_grow_and_are_saved(tmp_path):
    from mlx_lm.state import load_states, save_states

    model = _model(num_hidden_layers=1)
    ids = mx.concatenate([IDS] * 5, axis=1)
    cache, pieces = model.make_cache(), []
    for i in range(0, 300, 30):
        pieces.append(model(ids[:, i : i + 30], cache))
    plain = model(ids)
    _close(mx.concatenate(pieces, axis=1), plain)
    save_states(str(tmp_path / "states.safetensors"), cache)
    loaded = load_states(str(tmp_path / "states.safetensors"))
    assert mx.array_equal(model(IDS, loaded), model(IDS, cache))


def test_replaced_weights_and_modules_are_noticed():
    model = _model(bits=0)
    _run(model, 60)
    attention = model.layers[1].self_attn
    attention.q_proj.weight = attention.q_proj.weight * 1.5
    _close(_run(model, 60), model(IDS))
    attention.q_proj.weight[0] = 3.0  # the same Python object with other content
    _close(_run(model, 60), model(IDS))
    nn.quantize(model, group_size=32, bits=4)
    _close(_run(model, 60), model(IDS))
    adapted = LoRALinear.from_base(attention.v_proj)
    adapted.lora_b = mx.random.normal(adapted.lora_b.shape)
    base, attention.v_proj = attention.v_proj, adapted
    _close(_run(model, 60), model(IDS))
    assert _segments(model) == [True, False, True]
    attention.v_proj = base
    _close(_run(model, 60), model(IDS))
    assert _segments(model) == [True]
    again = copy.deepcopy(model)
    assert mx.array_equal(_run(again, 60), _run(model, 60))


def test_packed_weights_stay_readable():
    model = _model()
    before = {k: mx.array(v) for k, v in tree_flatten(model.parameters())}
    _run(model, 4)
    after = dict(tree_flatten(model.parameters()))
    assert before.keys() == after.keys() and all(mx.array_equal(before[k], after[k]) for k in before)


def test_other_states_take_the_ordinary_path():
    model = _model()
    packed = model.make_cache(KVOptions(bits=8, group_size=32))
    short = model.make_cache(KVOptions(max_size=16, keep=2))
    assert _run(model, 30, 30, cache=packed).shape == _run(model, 30, 30, cache=short).shape


def test_training_with_states_and_without():
    model = _model(bits=0)
    _run(model, 10)

    def loss(weights, cache):
        model.update(weights)
        return (model(IDS[:, :12], cache) ** 2).mean()

    weights = model.trainable_parameters()
    plain = mx.grad(lambda w: loss(w, None))(weights)
    model.update(weights)
    stated = mx.grad(lambda w: loss(w, model.make_cache()))(weights)
    model.update(weights)
    for a, b in zip(*(dict(tree_flatten(g)).values() for g in (plain, stated)), strict=True):
        _close(a, b, 1e-3)


def test_wrong_shapes_are_refused():
    model = _model()
    _run(model, 4)
    plan = model.model._runner._segments[0].plan
    store = fused.allocate_tokens((1, 2, 8, 32), mx.float32)
    with pytest.raises(ValueError, match="fused layers"):
        fused.run_layers(
            plan,
            mx.zeros((1, 9, 64)),
            keys=[store] * 3,
            values=[store] * 3,
            lengths=[0] * 3,
            windows=[0] * 3,
            keeps=[0] * 3,
            positions=[0],
            after=[],
            dtype=mx.float32,
        )
