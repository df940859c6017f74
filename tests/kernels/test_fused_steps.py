"""Fused steps one after the other: what is carried from step to step, against states that are asked anew each time."""

import mlx.core as mx
import pytest
from mlx import nn

from mlx_lm.kernels import fused
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


def test_stores_in_one_allocation_keep_their_own_tokens():
    memory = fused.token_memory(8 << 20)
    assert memory is not None and fused.token_memory(1 << 20) is None
    tokens = [mx.random.normal((1, 2, 8, 32)) for _ in range(40)]
    stores = []
    for array in tokens:
        mx.eval(array)
        stores.append(fused.adopt_tokens(array))
        stores[-1].grow(999, 5, memory)  # the last do not fit
    for store, array in zip(stores, tokens, strict=True):
        grown = store.array()
        assert grown.shape == (1, 2, 999, 32)
        assert mx.array_equal(grown[:, :, :5], array[:, :, :5]) and mx.all(grown[:, :, 5:] == 0)


def test_memory_of_states_is_freed_with_the_last_of_them():
    mx.clear_cache()
    before = mx.get_active_memory()
    memory = fused.token_memory(8 << 20)
    stores = [fused.allocate_tokens((1, 2, 512, 32), mx.float32, memory) for _ in range(3)]
    del memory
    assert mx.get_active_memory() >= before + (8 << 20)
    del stores[:2]
    assert mx.get_active_memory() >= before + (8 << 20)
    del stores
    assert mx.get_active_memory() <= before + 4096


@pytest.fixture(params=["exact", "int8"])
def activations(request, monkeypatch) -> str:
    monkeypatch.setenv("MLX_LM_ACTIVATIONS", request.param)
    return request.param


def _apart(model: nn.Module, caches: list[list], steps: list[tuple[list[int], list[int]]]) -> list[mx.array]:
    """Each step's decoded rows, and its piece of the last sequence's prompt, in passes of their own."""
    out = []
    for piece, ids in steps:
        out.append(model.hidden(mx.array([piece]), caches[-1]))
        out.append(model.hidden(mx.array([[t] for t in ids]), _layers(caches[:-1])))
    return out


def _together(model: nn.Module, caches: list[list], steps: list[tuple[list[int], list[int]]]) -> list[mx.array]:
    out = []
    for piece, ids in steps:
        decoded = (mx.array([[t] for t in ids]), _layers(caches[:-1]))
        both = model.hidden_together([decoded, (mx.array([piece]), caches[-1])])
        out += both[::-1]
    return out


def test_a_piece_of_a_prompt_beside_decoding_gives_what_each_gives_alone(model, activations):
    lengths = 20, 3, 250, 70
    sizes = 5, 1, 300, 2, 40, 17, 90, 3
    steps = [([(i + n) % 97 for n in range(size)], [i, i + 1, i + 2]) for i, size in enumerate(sizes)]
    ours, theirs = _prompts(model, *lengths), _prompts(model, *lengths)
    for a, b in zip(_together(model, ours, steps), _apart(model, theirs, steps), strict=True):
        assert a.shape == b.shape and (mx.array_equal(a, b) if activations == "exact" else mx.allclose(a, b, atol=0.1))
    assert [s.offset for cache in ours for s in cache] == [s.offset for cache in theirs for s in cache]
    for a, b in zip(ours, theirs, strict=True):  # and they go on
        assert mx.allclose(_step(model, [a], [5]), _step(model, [b], [5]), atol=1e-5 if activations == "exact" else 0.1)


def test_batches_of_several_lengths_go_together(model):
    """Any number of batches, a single sequence given as its states alone among them."""
    shapes = (2, 3), (1, 1), (1, 7)

    def parts(caches):
        states = _layers(caches[:2]), caches[2], [[s] for s in caches[3]]
        return [(mx.arange(b * n).reshape(b, n), s) for (b, n), s in zip(shapes, states, strict=True)]

    ours, theirs = _prompts(model, 4, 9, 2, 11), _prompts(model, 4, 9, 2, 11)
    for a, (ids, states) in zip(model.hidden_together(parts(ours)), parts(theirs), strict=True):
        assert mx.array_equal(a, model.hidden(ids, states))


def test_what_cannot_go_together_is_left_as_it_was(model):
    caches = _prompts(model, 4, 5)
    for state in caches[1]:
        state.quantize_after(8, 32, 0)
    assert model.hidden_together([(mx.array([[1]]), caches[0]), (mx.array([[2, 3]]), caches[1])]) is None
    assert [s.offset for s in caches[0] + caches[1]] == [4] * 3 + [5] * 3
    rows = model.make_cache()  # one state for two rows
    mx.eval(model(mx.array([[1, 2], [3, 4]]), rows))
    assert model.hidden_together([(mx.array([[1], [2]]), rows), (mx.array([[2, 3]]), caches[0])]) is None
    mamba = build_model({"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 9})
    state = mamba.make_cache()
    assert mamba.hidden_together([(mx.array([[1]]), state), (mx.array([[1]]), mamba.make_cache())]) is None


@pytest.mark.parametrize(
    "parts", [[(1, 2)], [(1, 1), (1, 1)], [(0, 3), (3, 1)], [(3, 1), (-1, 1)], [(1, 2**62), (2, 1)]]
)
def test_parts_that_do_not_fit_are_refused(model, parts):
    caches = _prompts(model, 4, 5, 6)
    runner = model.model._runner
    segment = runner._segments[0]
    rows = list(zip(*caches, strict=True))
    memory, _ = runner._asked(segment, rows, [1, 1, 1], mx.float32, 1)
    x = mx.zeros((1, 3, SIZES["hidden_size"]))
    with pytest.raises(ValueError, match="fused layers"):
        fused.run_layers(segment.plan, x, **memory, positions=[4, 5, 6], dtype=mx.float32, parts=parts)
