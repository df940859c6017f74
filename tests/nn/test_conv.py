"""Gated short convolutions: cuts, batches, snapshots."""

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.nn import ShortConv


def far(a, b):
    return mx.abs(a - b).max().item()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 24), st.integers(2, 5), st.booleans(), st.data())
def test_any_cut_gives_the_whole_answer(length, kernel, bias, data):
    mx.random.seed(length)
    module = ShortConv(16, kernel, bias=bias)
    x = mx.random.normal((2, length, 16))
    whole = module(x)
    cut = data.draw(st.integers(1, length - 1))
    state = module.state_spec().create()
    out = mx.concatenate([module(x[:, :cut], state), module(x[:, cut:], state)], axis=1)
    assert far(out, whole) < 1e-5
    assert tuple(state[0].shape[1:]) == module.state_spec().slots[0].shape == (kernel - 1, 16)


def test_rows_of_a_batch_are_on_their_own_and_snapshots_return():
    mx.random.seed(0)
    module = ShortConv(16, 3)
    x = mx.random.normal((2, 12, 16))
    states = [module.state_spec().create() for _ in range(2)]
    module(x[:1, :5], states[0])
    batch = module(mx.concatenate([x[:1, 5:7], x[1:, :2]]), states)
    assert far(batch[:1], module(x[:1])[:, 5:7]) < 1e-5
    assert far(batch[1:], module(x[1:])[:, :2]) < 1e-5
    mark = states[1].snapshot()
    first = module(x[1:, 2:6], states[1])
    states[1].restore(mark)
    assert far(module(x[1:, 2:6], states[1]), first) == 0
