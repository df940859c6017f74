"""Every family packed to 4 bits, saved and loaded again, against the same values dense; and in bfloat16."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

sys.path.insert(0, str(Path(__file__).resolve().parent))
from float64.cases import CASES
from references import all_references, load_reference

from mlx_lm.models import build_model
from mlx_lm.models.registry import MODEL_REMAPPING, families

GROUP = 32
UNIT_HEAD = ("baichuan_m1",)  # their rules make a dense head's rows unit vectors, which packed values are not quite


def _ready(name: str) -> bool:
    model_type = str(load_reference(name).config_v5["model_type"])
    return MODEL_REMAPPING.get(model_type, model_type).replace("-", "_") in families()


def _first_of_each(names: Iterable[str]) -> list[str]:
    """The base variant of each family, or its first."""
    order = sorted(names, key=lambda name: not name.endswith("/base"))
    return list({name.split("/")[0]: name for name in reversed(order)}.values())


NAMES = _first_of_each(name for name in (*all_references(), *CASES) if name in CASES or _ready(name))


def _checkpoint(name: str) -> tuple[dict[str, Any], dict[str, mx.array], mx.array, mx.array]:
    if name in CASES:
        logits, tensors = CASES[name].run()
        weights = {key: mx.array(value) for key, value in tensors.items()}
        return CASES[name].config, weights, mx.array(CASES[name].ids)[None], mx.array(logits, mx.float32)[None]
    reference = load_reference(name)
    return reference.config("v5"), dict(reference.weights), reference.ids, reference.logits


def _packed(model: Any, name: str) -> dict[str, mx.array]:
    """The model's tensors, its layers packed wherever convert would pack them."""

    def fits(path: str, module: nn.Module) -> Any:
        weight = getattr(module, "weight", None)
        whole = weight is not None and weight.ndim >= 2 and weight.shape[-1] % GROUP == 0
        whole = whole and not (path == "lm_head" and name in UNIT_HEAD)
        return whole and hasattr(module, "to_quantized") and model.quant_predicate(path, module)

    nn.quantize(model, group_size=GROUP, bits=4, class_predicate=fits)
    return dict(tree_flatten(model.parameters()))


def _dense(packed: dict[str, mx.array]) -> dict[str, mx.array]:
    """The same values without packing."""
    dense = {}
    for name, value in packed.items():
        base = name.removesuffix(".weight")
        scales = packed.get(f"{base}.scales")
        if name.endswith(".weight") and scales is not None:
            bits = value.shape[-1] * 32 // (scales.shape[-1] * GROUP)
            value = mx.dequantize(value, scales, packed[f"{base}.biases"], group_size=GROUP, bits=bits)
        elif name.rsplit(".", 1)[-1] in ("scales", "biases"):
            continue
        dense[name] = value
    return dense


def difference(name: str) -> tuple[float, float]:
    """The share of positions at which the packed model is off, and by how much at most."""
    config, weights, ids, _ = _checkpoint(name)
    packed = _packed(build_model(config, weights), name)
    assert any(key.endswith(".scales") for key in packed)
    quantized = build_model({**config, "quantization": {"group_size": GROUP, "bits": 4}}, packed)
    each = mx.abs(quantized(ids) - build_model(config, _dense(packed))(ids)).max(axis=(0, 2))
    return (each > 2e-3).mean().item(), each.max().item()


@pytest.mark.parametrize("name", NAMES)
def test_packed_equals_dense(name: str) -> None:
    share, most = difference(name)
    # A near tie between experts may fall either way at a position.
    assert share <= 1 / 8, f"{share:.0%} of the positions differ, by {most:.1e}"


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(name: str) -> None:
    config, weights, ids, expected = _checkpoint(name)
    model = build_model(config, weights)
    model.set_dtype(mx.bfloat16)
    logits = model(ids).astype(mx.float32)
    assert mx.abs(logits - expected).mean().item() < 0.15 * mx.std(expected).item()
