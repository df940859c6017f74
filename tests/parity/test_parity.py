"""Every reference, four ways: the whole prompt, in chunks, token by token, and in a batch of different lengths.

Both spellings of the config and both weight layouts are read for the whole prompt. Tolerance is 1e-4 on float32 logits
whose standard deviation is about 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hub_layout import to_hub_layout
from references import Reference, all_references, load_reference
from ways import batched, check, in_pieces

from mlx_lm.models.registry import MODEL_REMAPPING, families, get_classes


def _ready(name: str) -> bool:
    model_type = str(load_reference(name).config_v5["model_type"])
    return MODEL_REMAPPING.get(model_type, model_type).replace("-", "_") in families()


READY = [name for name in all_references() if _ready(name)]
PIECEWISE = [name for name in READY if not load_reference(name).path_dependent]


def _build(reference: Reference, *, spelling: str = "v5", native: bool = False) -> Any:
    config = reference.config(spelling)
    model_class, args_class = get_classes(config)
    model = model_class(args_class.from_dict(config))
    weights = dict(reference.native_weights() if native else reference.weights)
    model.load_weights(list(model.sanitize(weights).items()), strict=True)
    model.eval()
    return model


@pytest.mark.parametrize("spelling", ["v5", "hub"])
@pytest.mark.parametrize("name", READY)
def test_whole_prompt(name: str, spelling: str) -> None:
    reference = load_reference(name)
    model = _build(reference, spelling=spelling)
    check(model(reference.ids), reference.logits)
    check(model(reference.ids, model.make_cache()), reference.logits)


@pytest.mark.parametrize("name", [name for name in READY if load_reference(name).native])
def test_native_layout(name: str) -> None:
    reference = load_reference(name)
    check(_build(reference, native=True)(reference.ids), reference.logits)


@pytest.mark.parametrize("name", PIECEWISE)
def test_chunked_prefill(name: str) -> None:
    reference = load_reference(name)
    logits = in_pieces(_build(reference), reference.ids, [7, 5, 1, 9])
    check(logits, reference.logits)


@pytest.mark.parametrize("name", PIECEWISE)
def test_stepwise(name: str) -> None:
    reference = load_reference(name)
    logits = in_pieces(_build(reference), reference.ids, [2])
    check(logits, reference.logits)


@pytest.mark.parametrize("name", PIECEWISE)
def test_batch_of_different_lengths(name: str) -> None:
    reference = load_reference(name)
    for logits, expected in batched(_build(reference), reference.ids, reference.logits):
        check(logits, expected)


@pytest.mark.parametrize("name", [n for n in READY if load_reference(n).path_dependent == "longrope"])
def test_longrope_after_a_long_prefix(name: str) -> None:
    reference = load_reference(name)
    logits = in_pieces(_build(reference), reference.ids, [reference.ids.shape[1] - 4])
    check(logits, reference.logits)


@pytest.mark.parametrize("name", [n for n in READY if n.startswith("gpt_oss/")])
def test_published_mxfp4_holds_the_same_values(name: str) -> None:
    reference = load_reference(name)
    packed, config = to_hub_layout(reference.family, reference.weights, reference.config("hub"))
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    experts = "model.layers.0.mlp.experts.down_proj"
    unpacked = mx.dequantize(
        packed[f"{experts}_blocks"].reshape(*packed[f"{experts}_blocks"].shape[:2], -1).view(mx.uint32),
        packed[f"{experts}_scales"],
        group_size=32,
        bits=4,
        mode="mxfp4",
    )
    assert mx.array_equal(unpacked.astype(mx.float32).swapaxes(1, 2), reference.weights[experts])
