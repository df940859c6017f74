"""Cache options on every attention kind: packed keys and values, limited size, windows that have moved, rollback."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from references import all_references, load_reference

from mlx_lm.models import build_model
from mlx_lm.models.base import CausalLM
from mlx_lm.models.registry import MODEL_REMAPPING, families
from mlx_lm.state import AttentionState, KVOptions, KVSpec, State

PACKED = KVOptions(bits=8, group_size=32)


def _known(name: str) -> bool:
    reference = load_reference(name)
    model_type = reference.config_v5["model_type"]
    return not reference.path_dependent and MODEL_REMAPPING.get(model_type, model_type) in families()


def _build(name: str) -> CausalLM:
    reference = load_reference(name)
    return build_model(reference.config("v5"), reference.weights)


def _attention_only(name: str) -> list[KVSpec] | None:
    """The layers' declarations, of models whose every layer keeps keys and values."""
    config = load_reference(name).config("v5")
    specs = build_model(config).state_specs()
    return specs if all(isinstance(s, KVSpec) for s in specs) else None  # type: ignore[return-value]


KNOWN = [name for name in all_references() if _known(name)]
ATTENTION = {name: specs for name in KNOWN if (specs := _attention_only(name)) is not None}
PACKABLE = [n for n, specs in ATTENTION.items() if all(s.key_dim % 32 == s.value_dim % 32 == 0 for s in specs)]


def _positions(name: str) -> int:
    """Where a table of positions ends."""
    config = load_reference(name).config_v5
    return config.get("n_positions") or config.get("max_position_embeddings") or 512


SLIDING = [n for n, specs in ATTENTION.items() if any(s.window for s in specs) and _positions(n) > 400]
BASES = [n for n in ATTENTION if n.endswith("/base")]
LONG = [n for n in BASES if _positions(n) > 330]


def _ids(name: str, length: int, seed: int = 3) -> mx.array:
    vocabulary = load_reference(name).logits.shape[-1]
    return mx.random.randint(3, vocabulary, (1, length), key=mx.random.key(seed))


def _in_pieces(model: CausalLM, ids: mx.array, cache: list[State], sizes: list[int]) -> mx.array:
    outputs, at = [], 0
    for size in sizes:
        outputs.append(model(ids[:, at : at + size], cache))
        mx.eval(outputs[-1])
        at += size
    assert at == ids.shape[1]
    return mx.concatenate(outputs, axis=1)


def _error(a: mx.array, b: mx.array) -> float:
    return mx.abs(a - b).max().item()


@pytest.mark.parametrize("name", PACKABLE)
def test_packed_cache_is_close(name: str) -> None:
    model, ids = _build(name), load_reference(name).ids
    logits = _in_pieces(model, ids, model.make_cache(PACKED), [9, 4, *([1] * 11)])
    assert 0 < _error(logits, load_reference(name).logits) < 0.15


@pytest.mark.parametrize("name", PACKABLE)
def test_packing_can_start_late(name: str) -> None:
    model, ids = _build(name), load_reference(name).ids
    cache = model.make_cache(KVOptions(bits=8, group_size=32, start=12))
    logits = _in_pieces(model, ids, cache, [9, 2, *([1] * 13)])
    assert _error(logits[:, :11], load_reference(name).logits[:, :11]) < 1e-4
    assert 0 < _error(logits, load_reference(name).logits) < 0.15


@pytest.mark.parametrize("name", SLIDING)
def test_windows_stay_exact_after_old_tokens_are_dropped(name: str) -> None:
    model, ids = _build(name), _ids(name, 400)
    cache = model.make_cache()
    logits = _in_pieces(model, ids, cache, [180, 1, 1, 160, *([1] * 58)])
    assert _error(logits, model(ids)) < 1e-4
    for spec, state in zip(ATTENTION[name], cache, strict=True):
        assert state.size() == 400 if spec.window is None else state.size() <= spec.window + 256


@pytest.mark.parametrize("name", [n for n in PACKABLE if n in SLIDING])
def test_packed_windows_after_old_tokens_are_dropped(name: str) -> None:
    model, ids = _build(name), _ids(name, 300)
    logits = _in_pieces(model, ids, model.make_cache(PACKED), [180, 80, *([1] * 40)])
    errors = mx.sort(mx.abs(logits - model(ids)).max(axis=(0, 2)))
    assert errors[-3].item() < 0.15  # at a few positions a router may choose otherwise


@pytest.mark.parametrize("name", LONG)
def test_limited_cache_gives_the_same_in_pieces(name: str) -> None:
    """The first `keep` and the last tokens are seen, whether the rest is masked (one call) or dropped (many)."""
    model, ids = _build(name), _ids(name, 330)
    options = KVOptions(max_size=24, keep=4)
    cache = model.make_cache(options)
    logits = _in_pieces(model, ids, cache, [200, 90, *([1] * 40)])
    assert _error(logits, model(ids, model.make_cache(options))) < 1e-4
    assert _error(logits[:, :5], model(ids[:, :5])) < 1e-4
    for spec, state in zip(ATTENTION[name], cache, strict=True):
        assert isinstance(state, AttentionState)
        assert state.size() < 300
        assert state.keep == (0 if spec.window is not None else 4)


@pytest.mark.parametrize("name", [n for n in KNOWN if n.endswith("/base")])
def test_restore_forgets_what_came_after_the_snapshot(name: str) -> None:
    model, ids = _build(name), load_reference(name).ids
    cache = model.make_cache()
    model(ids[:, :9], cache)
    marks = [state.snapshot() for state in cache]
    mx.eval(model(_ids(name, 6), cache))
    for state, mark in zip(cache, marks, strict=True):
        state.restore(mark)
    assert _error(model(ids[:, 9:14], cache), load_reference(name).logits[:, 9:14]) < 1e-4


@pytest.mark.parametrize("name", BASES)
def test_trim_takes_tokens_back(name: str) -> None:
    model, ids = _build(name), load_reference(name).ids
    cache = model.make_cache()
    model(ids[:, :9], cache)
    mx.eval(model(_ids(name, 4), cache))
    assert [state.trim(4) for state in cache] == [4] * len(cache)
    assert _error(model(ids[:, 9:14], cache), load_reference(name).logits[:, 9:14]) < 1e-4


@pytest.mark.parametrize("name", BASES)
def test_copies_go_separate_ways(name: str) -> None:
    model, ids = _build(name), load_reference(name).ids
    cache = model.make_cache()
    model(ids[:, :9], cache)
    other = [state.copy() for state in cache]
    mx.eval(model(_ids(name, 5), other))
    assert _error(model(ids[:, 9:14], cache), load_reference(name).logits[:, 9:14]) < 1e-4


@pytest.mark.parametrize("name", ["gpt_oss/wide", "gemma2/bias_wide"])
def test_packed_windows_with_sinks_and_soft_caps(name: str) -> None:
    reference, ids = load_reference(name), _ids(name, 300)
    config = reference.config("v5") | {"layer_types": ["sliding_attention"], "sliding_window": 9}
    model = build_model(config, reference.weights)
    plain = model(ids)
    assert _error(_in_pieces(model, ids, model.make_cache(), [180, 80, *([1] * 40)]), plain) < 1e-4
    assert _error(_in_pieces(model, ids, model.make_cache(PACKED), [180, 80, *([1] * 40)]), plain) < 0.15
