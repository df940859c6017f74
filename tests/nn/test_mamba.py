"""State-space blocks: cuts, batches, snapshots, options."""

import math

import mlx.core as mx
import pytest

from mlx_lm.errors import ConfigError
from mlx_lm.models.mamba2 import parse_limit
from mlx_lm.nn import GatedRMSNorm, Mamba, Mamba2, Mamba2Options, MambaOptions


def layer(kind, **changes):
    mx.random.seed(0)
    if kind == "mamba":
        made = Mamba(MambaOptions(32, 48, 8, 4, 4, **changes))
    else:
        made = Mamba2(Mamba2Options(32, 4, 8, 2, 16, 4, **changes))
    mx.eval(made.parameters())
    return made


def far(a, b):
    return mx.abs(a - b).max().item()


OPTIONS = [
    ("mamba", {}),
    ("mamba", {"bias": True, "conv_bias": False}),
    ("mamba2", {}),
    ("mamba2", {"bias": True, "conv_bias": False, "norm_groups": 2, "time_step_limit": (0.3, 0.9)}),
    ("mamba2", {"norm": False}),
    ("mamba2", {"norm_first": True}),
]


@pytest.mark.parametrize(("kind", "changes"), OPTIONS)
@pytest.mark.parametrize("cuts", [[1] * 40, [7, 1, 32], [39, 1]])
def test_any_cut_gives_the_whole_answer(kind, changes, cuts):
    module = layer(kind, **changes)
    x = mx.random.normal((2, 40, 32))
    whole = module(x)
    state, outs, at = module.state_spec().create(), [], 0
    for n in cuts:
        outs.append(module(x[:, at : at + n], state))
        at += n
    assert far(mx.concatenate(outs, axis=1), whole) < 1e-5
    slots = module.state_spec().slots
    assert [tuple(a.shape[1:]) for a in state.arrays()] == [slot.shape for slot in slots]
    assert state[1].dtype == slots[1].dtype == mx.float32


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_rows_of_a_batch_are_on_their_own_and_snapshots_return(kind):
    module = layer(kind)
    x = mx.random.normal((2, 20, 32))
    states = [module.state_spec().create() for _ in range(2)]
    module(x[:1, :9], states[0])
    batch = module(mx.concatenate([x[:1, 9:12], x[1:, :3]]), states)
    assert far(batch[:1], module(x[:1])[:, 9:12]) < 1e-5
    assert far(batch[1:], module(x[1:])[:, :3]) < 1e-5
    mark = states[0].snapshot()
    first = module(x[:1, 12:16], states[0])
    states[0].restore(mark)
    assert far(module(x[:1, 12:16], states[0]), first) == 0


def test_bfloat16_models_keep_float32_memories():
    module = layer("mamba2")
    module.set_dtype(mx.bfloat16)
    state = module.state_spec().create()
    assert module(mx.random.normal((1, 9, 32)).astype(mx.bfloat16), state).dtype == mx.bfloat16
    assert [a.dtype for a in state.arrays()] == [mx.bfloat16, mx.float32]


def test_gated_norms():
    mx.random.seed(0)
    x, gate = mx.random.normal((2, 3, 8)), mx.random.normal((2, 3, 8))
    act = gate * mx.sigmoid(gate)

    def norm(a):
        return a / mx.sqrt((a * a).mean(-1, keepdims=True) + 1e-5)

    assert far(GatedRMSNorm(8)(x, gate), norm(x * act)) < 1e-5
    assert far(GatedRMSNorm(8, norm_first=True)(x, gate), norm(x) * act) < 1e-5
    parts = mx.unflatten(x * act, -1, (2, 4))
    assert far(GatedRMSNorm(8, groups=2)(x, gate), norm(parts).flatten(-2)) < 1e-5


def test_time_step_limits_in_every_spelling():
    assert parse_limit([0.0, {"__float__": "Infinity"}]) == (0.0, math.inf)
    assert parse_limit([0, "Infinity"]) == parse_limit([0, math.inf]) == parse_limit([0, None]) == (0.0, math.inf)
    assert parse_limit([0.1, 2]) == (0.1, 2.0)
    for wrong in (None, 3, [1], [1, 0], ["x", 2], [0, math.nan], [-1, 2], [0, 1, 2]):
        with pytest.raises(ConfigError):
            parse_limit(wrong)
