"""Weight rules: idempotent, every layout to one set of names; a checkpoint that does not fit is refused in words."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from hub_layout import to_hub_layout
from references import all_references, load_reference

from mlx_lm.errors import WeightsError
from mlx_lm.models import build_model
from mlx_lm.models.registry import MODEL_REMAPPING, families
from mlx_lm.models.weights import Drop, Rename, Split, Stack, Transform, apply_rules, expert_rules, rename_path


def _known(name: str) -> bool:
    model_type = load_reference(name).config_v5["model_type"]
    return MODEL_REMAPPING.get(model_type, model_type) in families()


KNOWN = [name for name in all_references() if _known(name)]


def _equal(a: dict[str, mx.array], b: dict[str, mx.array]) -> bool:
    return a.keys() == b.keys() and all(a[k].shape == b[k].shape and mx.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", KNOWN)
def test_sanitize_twice_equals_once(name: str) -> None:
    reference = load_reference(name)
    model = build_model(reference.config("v5"))
    for weights in (dict(reference.weights), reference.native_weights()):
        once = model.sanitize(weights)
        assert _equal(model.sanitize(dict(once)), once)


@pytest.mark.parametrize("name", KNOWN)
def test_our_own_layout_is_read_back(name: str) -> None:
    """What we write is mlx-lm's layout: parameter names of the module tree."""
    reference = load_reference(name)
    model = build_model(reference.config("v5"), reference.weights)
    written = dict(tree_flatten(model.parameters()))
    again = build_model(reference.config("hub"), written)
    assert mx.array_equal(again(reference.ids), model(reference.ids))


@pytest.mark.parametrize("name", KNOWN)
def test_quantized_checkpoints_are_read_back(name: str) -> None:
    reference = load_reference(name)
    model = build_model(reference.config("v5"), reference.weights)

    def fits(path: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0 and module.weight.ndim > 1

    nn.quantize(model, 32, 8, class_predicate=fits)
    written = dict(tree_flatten(model.parameters()))
    config = reference.config("v5") | {"quantization": {"group_size": 32, "bits": 8}}
    again = build_model(config, written)
    assert _equal(dict(tree_flatten(again.parameters())), written)
    assert mx.array_equal(again(reference.ids), model(reference.ids))


@pytest.mark.parametrize("name", [n for n in KNOWN if n.startswith("gpt_oss/")])
def test_published_mxfp4_is_used_without_dequantizing(name: str) -> None:
    reference = load_reference(name)
    weights, config = to_hub_layout(reference.family, reference.weights, reference.config("hub"))
    model = build_model(config, weights)
    experts = model.layers[0].mlp.experts
    assert experts.gate_proj.mode == experts.down_proj.mode == "mxfp4"
    assert experts.gate_proj.weight.dtype == mx.uint32
    assert mx.abs(model(reference.ids) - reference.logits).max().item() < 1e-4
    once = model.sanitize(weights)
    assert _equal(model.sanitize(dict(once)), once)


@pytest.mark.parametrize("name", ["llama/base", "mixtral/base"])
def test_missing_unexpected_and_misshapen_tensors_are_listed(name: str) -> None:
    reference = load_reference(name)
    weights = dict(reference.weights)
    weights.pop("model.norm.weight")
    weights["model.extra.weight"] = mx.zeros((2,))
    with pytest.raises(WeightsError, match=r"1 missing: model\.norm\.weight; 1 unexpected: model\.extra\.weight"):
        build_model(reference.config("v5"), weights)
    weights = dict(reference.weights) | {"model.norm.weight": mx.zeros((3,))}
    with pytest.raises(WeightsError, match=r"model\.norm\.weight has \(3,\), not \(32,\)"):
        build_model(reference.config("v5"), weights)


def test_a_missing_expert_is_named() -> None:
    reference = load_reference("mixtral/base")
    weights = {k: v for k, v in reference.weights.items() if "experts.2.w1" not in k}
    with pytest.raises(WeightsError, match=r"gate_proj.*experts are missing; found \[0, 1, 3\]"):
        build_model(reference.config("v5"), weights)


def test_rules_one_by_one() -> None:
    a = mx.arange(8).reshape(4, 2)
    assert list(apply_rules([Rename("^x", "y"), Drop("z")], {"x.a": a, "z": a})) == ["y.a"]
    blocks = Split("w", ("u", "v"))({"w": a})
    assert blocks["u"].tolist() == [[0, 1], [2, 3]] and blocks["v"].tolist() == [[4, 5], [6, 7]]
    rows = Split("w", ("u", "v"), interleaved=True)({"w": a})
    assert rows["u"].tolist() == [[0, 1], [4, 5]] and rows["v"].tolist() == [[2, 3], [6, 7]]
    assert Stack(r"e\.(?P<expert>\d+)", "s")({"e.1": a + 1, "e.0": a})["s"][1].tolist() == (a + 1).tolist()
    assert Transform("w", lambda w: w * 2)({"w": a})["w"][3, 1].item() == 14
    assert rename_path([Rename(r"\.mlp\.", ".ff.")], "layers.0.mlp.up") == "layers.0.ff.up"


def test_expert_layouts_meet() -> None:
    parts = {n: mx.random.normal((4, 3, 2)) for n in ("gate_proj", "up_proj")} | {
        "down_proj": mx.random.normal((4, 2, 3))
    }
    single = {f"l.mlp.experts.{e}.{n}.weight": w[e] for n, w in parts.items() for e in range(4)}
    fused = {
        "l.mlp.experts.gate_up_proj": mx.concatenate([parts["gate_proj"], parts["up_proj"]], axis=1),
        "l.mlp.experts.down_proj": parts["down_proj"],
    }
    expected = {f"l.mlp.switch_mlp.{n}.weight": w for n, w in parts.items()}
    for layout in (single, fused, expected):
        assert _equal(apply_rules(expert_rules(), layout), expected)
