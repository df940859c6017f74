"""Fused steps one after the other: what is carried from step to step, against states that are asked anew each time."""

import mlx.core as mx
import pytest
from mlx import nn

from mlx_lm.engine.rewind import Rewind
from mlx_lm.kernels import fused, native
from mlx_lm.models.build import build_model
from mlx_lm.nn.fuse import LayerRunner

pytestmark = pytest.mark.skipif(not fused.available(), reason="the native kernels are not installed")

SIZES = {
    "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "head_dim": 32, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture(params=["llama", "mistral"])
def model(request) -> nn.Module:
    mx.random.seed(3)
    sliding = {"sliding_window": 9} if request.param == "mistral" else {}
    made = build_model({"model_type": request.param, **SIZES, **sliding})
    nn.quantize(made, group_size=32, bits=4)
    mx.eval(made.parameters())
    return made


@pytest.fixture
def carried(monkeypatch) -> list[bool]:
    """Whether each step went on from the one before it."""
    found: list[bool] = []
    plain = LayerRunner._continued

    def watched(self, *args):
        memory = plain(self, *args)
        found.append(memory is not None)
        return memory

    monkeypatch.setattr(LayerRunner, "_continued", watched)
    return found


def _prompts(model: nn.Module, *lengths: int) -> list[list]:
    caches = []
    for row, length in enumerate(lengths):
        cache = model.make_cache()
        mx.eval(model(mx.array([[(5 * i + row) % 97 for i in range(length)]]), cache))
        caches.append(cache)
    return caches


def _layers(caches: list[list]) -> list[list]:
    return [list(layer) for layer in zip(*caches, strict=True)]


def _step(model: nn.Module, caches: list[list], tokens: list[int]) -> mx.array:
    return model(mx.array([[t] for t in tokens]), _layers(caches))


def _story(model: nn.Module) -> list[mx.array]:
    """Rows leave, join, are cut, read, quantized and outgrow their memory between steps."""
    caches = _prompts(model, 20, 3, 250)
    out = [_step(model, caches, [1, 2, 3]) for _ in range(3)]
    out.append(_step(model, caches[1:], [4, 5]))
    out.append(_step(model, caches, [6, 7, 8]))
    if all(s.is_trimmable() for s in caches[0]):
        for state in caches[0]:
            state.trim(2)
    out.append(_step(model, caches, [9, 10, 11]))
    for state in caches[1]:
        mx.eval(state.arrays())
        state.keys_and_values()
    out += [_step(model, caches, [12 + i, 13, 14]) for i in range(80)]  # past the room that a prompt is given
    caches = _prompts(model, 7) + caches[1:]
    out += [_step(model, caches, [15, 16, 17]) for _ in range(2)]
    for state in caches[2]:
        state.quantize_after(8, 32, 0)
    out += [_step(model, caches, [18, 19, 20]) for _ in range(2)]
    mx.eval(out)
    return out


def test_steps_that_go_on_equal_steps_that_ask_anew(model, carried, monkeypatch):
    found = _story(model)
    assert model.model_type == "mistral" or sum(carried) > 70
    monkeypatch.setattr(LayerRunner, "_continued", lambda *args: None)
    for a, b in zip(found, _story(model), strict=True):
        assert mx.array_equal(a, b)


def test_states_with_windows_are_asked_each_time(model, carried):
    caches = _prompts(model, 30, 4)
    for _ in range(4):
        mx.eval(_step(model, caches, [1, 2]))
    assert carried[-3:] == [model.model_type == "llama"] * 3


@pytest.mark.parametrize("size", [16 << 20, 40 << 20], ids=["at once", "later"])
def test_stores_in_one_allocation_keep_their_own_tokens(size):
    memory = fused.token_memory(size)
    assert memory is not None and fused.token_memory(1 << 20) is None
    tokens = [mx.random.normal((1, 2, 8, 32)) for _ in range(size // (200 << 10))]
    stores = []
    for array in tokens:
        mx.eval(array)
        stores.append(fused.adopt_tokens(array))
        stores[-1].grow(999, 5, memory)  # the last do not fit
    memory.settle()
    for store, array in zip(stores, tokens, strict=True):
        grown = store.array()
        assert grown.shape == (1, 2, 999, 32)
        assert mx.array_equal(grown[:, :, :5], array[:, :, :5]) and mx.all(grown[:, :, 5:] == 0)


def test_memory_of_states_is_freed_with_the_last_of_them():
    mx.clear_cache()
    before = mx.get_active_memory()
    memory = fused.token_memory(16 << 20)
    stores = [fused.allocate_tokens((1, 2, 512, 32), mx.float32, memory) for _ in range(3)]
    del memory
    assert mx.get_active_memory() >= before + (16 << 20)
    del stores[:2]
    assert mx.get_active_memory() >= before + (16 << 20)
    del stores
    assert mx.get_active_memory() <= before + 4096


@pytest.fixture(params=["exact", "int8"])
def activations(request) -> str:
    native.set_activations(request.param)
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_piece_in_parts_gives_what_it_gives_at_once(model, activations, dtype):
    model.compute_in(getattr(mx, dtype))
    ours, theirs = _prompts(model, 70, 7), _prompts(model, 70, 7)
    for at, (size, layers) in enumerate([(5, 1), (300, 2), (1, 3), (17, 1), (90, 2)]):
        ids = mx.array([[(at + n) % 97 for n in range(size)]])
        work = model.hidden_in_parts(ids, ours[0])
        assert work.count == work.left == 3
        while work.left:
            out = work.go_on(layers)
            mx.eval(_step(model, ours[1:], [at]))  # others go on in between
        whole = model.hidden(ids, theirs[0])
        assert out.dtype == whole.dtype and mx.array_equal(out, whole)
        assert [s.offset for s in ours[0]] == [s.offset for s in theirs[0]]
    assert mx.array_equal(_step(model, ours[:1], [5]), _step(model, theirs[:1], [5]))  # and it goes on


def test_parts_of_layers_that_are_not_fused(model):
    """States that pack what they hold, and layers of another kind between fused ones."""
    ours, theirs = _prompts(model, 9), _prompts(model, 9)
    for state in (*ours[0], theirs[0][0], *theirs[0][1:]):
        state.quantize_after(8, 32, 0)
    ids = mx.array([[3, 1, 4]])
    work = model.hidden_in_parts(ids, ours[0])
    work.go_on(2)
    assert mx.array_equal(work.go_on(5), model.hidden(ids, theirs[0])) and work.left == 0


def test_an_aborted_piece_leaves_no_trace(model):
    ours, theirs = _prompts(model, 20), _prompts(model, 20)
    rewind = Rewind(ours[0])
    mark = rewind.mark()
    work = model.hidden_in_parts(mx.array([[1, 2, 3]]), ours[0])
    work.go_on(2)
    rewind.to(mark, 0)
    assert [s.offset for s in ours[0]] == [20] * 3
    assert mx.array_equal(_step(model, ours, [5]), _step(model, theirs, [5]))


def test_a_prompts_layers_share_one_allocation_in_parts_too(monkeypatch):
    made = []
    plain = fused.token_memory
    monkeypatch.setattr(fused, "token_memory", lambda nbytes: made.append(nbytes) or plain(nbytes))
    model = build_model({"model_type": "llama", **SIZES})
    work = model.hidden_in_parts(mx.zeros((1, 40), mx.int32), model.make_cache())
    while work.left:
        work.go_on(1)
    assert made[0] > 0 and not any(made[1:])  # the first asks for all layers, the others find it there


def test_latent_layers_are_looked_at_once(monkeypatch):
    """Weights that attention reads as arrays are not regrouped: that would be undone in every step."""
    sizes = {
        **SIZES,
        "kv_lora_rank": 32,
        "q_lora_rank": None,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 32,
        "num_key_value_heads": 4,
    }
    model = build_model({"model_type": "deepseek_v2", **sizes, "v_head_dim": 32, "n_routed_experts": None})
    nn.quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    looks = []
    plain = LayerRunner._look
    monkeypatch.setattr(LayerRunner, "_look", lambda self, *args: looks.append(1) or plain(self, *args))
    caches = _prompts(model, 5, 3)
    for i in range(4):
        mx.eval(_step(model, caches, [i, i + 1]))
    assert len(looks) == 1
