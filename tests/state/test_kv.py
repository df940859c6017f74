"""Attention states against a plain list of tokens, under random operations."""

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.errors import CacheStateError
from mlx_lm.kernels import attention
from mlx_lm.state import AttentionState, KVCache, KVOptions, KVSpec, QuantizedKVCache, RotatingKVCache

HEADS, DIM = 2, 32


def tokens(start: int, count: int) -> mx.array:
    """Keys whose content is their position, so that what is held can be read off."""
    positions = mx.arange(start, start + count, dtype=mx.float32)
    return mx.broadcast_to(positions[None, None, :, None], (1, HEADS, count, DIM))


def held(state: AttentionState) -> list[int]:
    keys, _ = state.keys_and_values()
    return [int(x) for x in keys[0, 0, :, 0].tolist()]


@settings(max_examples=60, deadline=None)
@given(
    window=st.one_of(st.none(), st.integers(1, 200)),
    keep=st.integers(0, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "trim", "mark", "back", "copy"]), st.integers(1, 150)), max_size=25
    ),
)
def test_states_hold_what_a_query_may_see(window, keep, steps):
    state = AttentionState(window=window, keep=keep if window else 0)
    written: list[int] = []  # the plain twin: every token
    marks: list[tuple[object, list[int]]] = []
    for action, n in steps:
        if action == "add":
            start = len(written)
            written += range(start, start + n)
            state.update(tokens(start, n), tokens(start, n))
            view = held(state)
            needed = (
                written if window is None else written[: state.keep] + written[max(0, len(written) - window - n + 1) :]
            )
            assert set(needed) <= set(view)
            assert view == sorted(view)
        elif action == "trim":
            n = min(n, len(written))
            if state.can_trim(n):
                assert state.trim(n) == n
                written = written[: len(written) - n]
                marks.clear()  # a mark holds only while the state moves forward
            else:
                with pytest.raises(CacheStateError):
                    state.trim(n)
        elif action == "mark":
            marks.append((state.snapshot(), list(written)))
        elif action == "back" and marks:
            mark, written = marks.pop()
            written = list(written)
            state.restore(mark)
        elif action == "copy":
            other = state.copy()
            state.update(tokens(5000, 3), tokens(5000, 3))  # must not show in the copy
            state = other
            marks.clear()
        assert state.offset == len(written)
        if written:
            assert held(state)[-1] == written[-1]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("window,keep", [(None, 0), (40, 0), (36, 4)])
def test_quantized_states_hold_the_same_tokens(bits, window, keep):
    mx.random.seed(0)
    plain = AttentionState(window=window, keep=keep)
    packed = AttentionState(window=window, keep=keep, bits=bits, group_size=32)
    for n in (50, 1, 1, 200, 3):
        x = mx.random.normal((1, HEADS, n, DIM))
        plain.update(x, x)
        packed.update(x, x)
    assert packed.offset == plain.offset and packed.size() == plain.size()
    a, b = plain.view().keys, packed.view().keys.dequantize()
    assert mx.abs(a - b).max().item() < {2: 1.6, 3: 0.8, 4: 0.4, 5: 0.2, 6: 0.1, 8: 0.03}[bits]
    assert packed.nbytes < plain.nbytes


def test_packing_starts_after_start_tokens():
    state = AttentionState(bits=8, group_size=32, start=10)
    state.update(tokens(0, 10), tokens(0, 10))
    assert isinstance(state.view().keys, mx.array)
    state.update(tokens(10, 1), tokens(10, 1))
    assert not isinstance(state.view().keys, mx.array)
    assert state.offset == 11


def test_growth_is_amortized_and_bytes_stay_near_the_declaration():
    spec = KVSpec(HEADS, DIM, DIM)
    state = spec.create()
    for n in range(3000):
        state.update(tokens(n, 1), tokens(n, 1))
    assert state.nbytes <= 1.2 * spec.bytes(3000, mx.float32)


@pytest.mark.parametrize("window", [None, 16])
def test_attention_over_a_state_equals_attention_over_everything(window):
    mx.random.seed(1)
    q, k, v = (mx.random.normal((1, HEADS, 60, DIM)) for _ in range(3))
    total = np.arange(60)
    mask = total[None] <= total[:, None]
    if window:
        mask &= total[:, None] - total[None] < window
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.2, mask=mx.array(mask))
    state = AttentionState(window=window)
    pieces, at = [], 0
    for n in (20, 1, 1, 30, 8):
        view = state.update(k[:, :, at : at + n], v[:, :, at : at + n])
        pieces.append(attention(q[:, :, at : at + n], (view,), scale=0.2))
        at += n
    assert mx.allclose(mx.concatenate(pieces, axis=2), expected, atol=1e-5)


def test_limited_states_keep_the_first_tokens():
    state = RotatingKVCache(max_size=20, keep=4)
    for n in range(1000):
        state.update(tokens(n, 1), tokens(n, 1))
    view = held(state)
    assert view[:4] == [0, 1, 2, 3] and view[-1] == 999 and len(view) < 20 + 140


def test_states_can_be_deep_copied_and_pickled():
    for state in (
        KVCache(),
        RotatingKVCache(8),
        QuantizedKVCache(32, 4),
        KVSpec(2, 32, 32).create(KVOptions(dtype="float16")),
    ):
        assert copy.deepcopy(state).offset == 0
        assert pickle.loads(pickle.dumps(state)).offset == 0


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="kv_bits"):
        AttentionState(bits=7)
    with pytest.raises(ValueError, match="window"):
        AttentionState(window=0)
    with pytest.raises(ValueError, match="keep"):
        RotatingKVCache(4, keep=4)
