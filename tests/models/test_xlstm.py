"""xLSTM: projections of the same input stored together, and prompts longer than a chunk."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_lm.errors import ConfigError
from mlx_lm.models import build_model, xlstm

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from references import load_reference

_FUSED = {
    "mlstm_layer.qkv_opreact": ("mlstm_layer.q", "mlstm_layer.k", "mlstm_layer.v", "mlstm_layer.ogate_preact"),
    "mlstm_layer.ifgate_preact": ("mlstm_layer.igate_preact", "mlstm_layer.fgate_preact"),
    "ffn.proj_up_gate_z": ("ffn.proj_up_gate", "ffn.proj_up"),
}


@pytest.mark.parametrize("name", ["xlstm/base", "xlstm/bias"])
def test_fused_weights(name: str) -> None:
    reference = load_reference(name)
    config, weights = reference.config("v5") | {"weight_mode": "fused"}, dict(reference.weights)
    for fused, parts in _FUSED.items():
        for key in [k for k in reference.weights if f".{parts[0]}." in k]:
            each = [weights.pop(key.replace(parts[0], part)) for part in parts]
            weights[key.replace(parts[0], fused)] = mx.concatenate(each)
    logits = build_model(config, weights)(reference.ids)
    assert mx.abs(logits - reference.logits).max().item() < 1e-4


def test_prompts_longer_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load_reference("xlstm/base")
    monkeypatch.setattr(xlstm, "_CHUNK", 5)
    logits = build_model(reference.config("v5"), reference.weights)(reference.ids)
    assert mx.abs(logits - reference.logits).max().item() < 1e-4


@pytest.mark.parametrize(
    ("key", "value"), [("add_out_norm", False), ("weight_mode", "both"), ("num_heads", 3), ("embedding_dim", 64)]
)
def test_refusals_name_the_field(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        build_model(load_reference("xlstm/base").config("v5") | {key: value})
