"""Gated delta layers: cuts, batches, snapshots, the bfloat16 state, and the next-token head of Qwen3-Next."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from tiny_models import WITH_HEAD

from mlx_lm.models import build_model
from mlx_lm.nn import DeltaOptions, GatedDelta


def layer(*, fused=True, **changes):
    mx.random.seed(0)
    sizes = {"hidden_size": 32, "key_heads": 2, "value_heads": 4, "key_dim": 16, "value_dim": 8, "kernel": 4}
    made = GatedDelta(DeltaOptions(**(sizes | {"fused": fused} | changes)))
    mx.eval(made.parameters())
    return made


def far(a, b):
    return mx.abs(a - b).max().item()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cuts", [[1] * 30, [7, 1, 22], [29, 1], [2, 28]])
def test_any_cut_gives_the_whole_answer(fused, cuts):
    module = layer(fused=fused)
    x = mx.random.normal((2, 30, 32))
    whole = module(x)
    state, outs, at = module.state_spec().create(), [], 0
    for n in cuts:
        outs.append(module(x[:, at : at + n], state))
        at += n
    assert far(mx.concatenate(outs, axis=1), whole) < 1e-5
    assert state.offset == 30
    declared = [slot.shape for slot in module.state_spec().slots]
    assert [tuple(a.shape[1:]) for a in state.arrays()] == declared


def test_rows_of_a_batch_are_on_their_own_and_snapshots_return():
    module = layer()
    x = mx.random.normal((2, 20, 32))
    states = [module.state_spec().create() for _ in range(2)]
    module(x[:1, :9], states[0])
    batch = module(mx.concatenate([x[:1, 9:12], x[1:, :3]]), states)
    assert far(batch[:1], module(x[:1])[:, 9:12]) < 1e-5
    assert far(batch[1:], module(x[1:])[:, :3]) < 1e-5
    mark = states[0].snapshot()
    first = module(x[:1, 12:16], states[0])
    states[0].restore(mark)
    assert states[0].offset == 12
    assert far(module(x[:1, 12:16], states[0]), first) == 0


def test_bfloat16_states_on_every_path(monkeypatch):
    module = layer()
    x = mx.random.normal((1, 40, 32))
    exact = module(x)
    plain = module.state_spec().create()
    module(x[:, :20], plain)
    monkeypatch.setenv("MLX_LM_GDN_STATE_BF16", "1")
    spec = module.state_spec()
    assert spec.slots[1].dtype == mx.bfloat16
    state, outs = spec.create(), []
    for n in (20, *[1] * 16, 4):
        outs.append(module(x[:, state.offset : state.offset + n], state))
        assert state[1].dtype == mx.bfloat16
    out = mx.concatenate(outs, axis=1)
    cosine = (out * exact).sum() / mx.sqrt((out * out).sum() * (exact * exact).sum())
    assert cosine.item() > 0.999
    module(x[:, 20:21], plain)  # begun in float32
    assert plain[1].dtype == mx.bfloat16
    monkeypatch.setenv("MLX_LM_GDN_STATE_BF16", "0")
    module(x[:, 21:22], plain)
    assert plain[1].dtype == mx.float32


def with_head():
    """A model with a next-token head, in mlx-lm's layout."""
    from mlx.utils import tree_flatten

    model = build_model(WITH_HEAD)
    model.add_next_token_head({"mtp.layers.0.self_attn.q_proj.weight": mx.zeros(())})
    weights = dict(tree_flatten(model.parameters()))
    return model, weights


def test_the_next_token_head_is_kept_saved_and_quantized():
    model, weights = with_head()
    assert {"mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.mlp.switch_mlp.up_proj.weight"} <= weights.keys()
    again = build_model(WITH_HEAD, weights)
    ids = mx.array([[3, 1, 4, 1, 5]])
    hidden = again.hidden(ids)
    cache = again.make_draft_cache()
    drafted = again.draft(hidden[:, :-1], ids[:, 1:], cache)
    assert drafted.shape == (1, 4, 32) and cache[0].offset == 4
    assert far(drafted, model.draft(model.hidden(ids)[:, :-1], ids[:, 1:])) < 1e-5
    assert again.logits(drafted).shape == (1, 4, 32)
    nn.quantize(again, group_size=32, bits=8)
    assert "scales" in again.mtp.fc
    assert far(again.draft(hidden[:, :-1], ids[:, 1:]), drafted) < 0.1


def test_checkpoints_without_a_head_have_none():
    model = build_model(WITH_HEAD, {k: v for k, v in with_head()[1].items() if not k.startswith("mtp.")})
    assert "mtp" not in model


def test_published_norms_are_shifted_once():
    _, weights = with_head()
    ours = build_model(WITH_HEAD, weights)
    norms = [k for k in weights if k.endswith("norm.weight") or ".pre_fc_norm" in k]
    raw = {k: v - 1 if k in norms and "linear_attn" not in k else v for k, v in weights.items()}
    conv = "model.layers.0.linear_attn.conv1d.weight"
    raw[conv] = raw[conv].moveaxis(1, 2)
    ids = mx.array([[3, 1, 4]])
    assert far(build_model(WITH_HEAD, raw)(ids), ours(ids)) < 1e-5
    assert far(build_model(WITH_HEAD, ours.sanitize(ours.sanitize(raw)))(ids), ours(ids)) < 1e-5
