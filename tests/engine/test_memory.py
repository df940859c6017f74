"""Memory: warnings at each level, and predictions against what unlike families really hold."""

import logging

import mlx.core as mx
import pytest
from test_speculation import packable
from tiny_models import PACKABLE, tiny

from mlx_lm.engine import DraftSpeculation, Engine, MemoryWatch, Request
from mlx_lm.errors import RequestError
from mlx_lm.models import build_model
from mlx_lm.state import KVOptions

GB = 10**9


def test_each_level_is_reported_once_until_the_memory_falls(caplog):
    used = [0]
    watch = MemoryWatch((20 * GB, 22 * GB, 24 * GB), read=lambda: used[0])
    caplog.set_level(logging.WARNING)
    for value, expected in (
        (19.9, []),
        (20.1, [("WARNING", "MLX memory is high: 20.10 GB (level 20.00 GB)")]),
        (21.0, []),
        (19.5, []),  # not far enough below
        (20.5, []),
        (24.5, [("CRITICAL", "MLX memory is critical: 24.50 GB (level 24.00 GB)")]),
        (18.0, []),
        (22.5, [("ERROR", "MLX memory is very high: 22.50 GB (level 22.00 GB)")]),
    ):
        caplog.clear()
        used[0] = int(value * GB)
        watch.look()
        assert [(r.levelname, r.getMessage()) for r in caplog.records] == expected
    caplog.set_level(logging.DEBUG)
    watch.look()
    assert "MLX memory: 22.50 GB" in caplog.text


@pytest.mark.parametrize("levels", [(1, 2), (3, 2, 1), (0, 1, 2), (-1, 5, 6)])
def test_levels_that_make_no_sense(levels):
    with pytest.raises(RequestError, match="rising"):
        MemoryWatch(levels)


def test_the_engine_looks_now_and_then(full_model, caplog):
    model, _ = full_model
    looks = []
    engine = Engine(model, memory_watch=MemoryWatch((1, 2, 3), read=lambda: looks.append(1) or 5))
    caplog.set_level(logging.WARNING)
    assert len(list(engine.run(engine.add(Request(prompt=(1, 2), max_tokens=40))))) == 40
    assert 2 <= len(looks) <= 4 and len(caplog.records) == 1
    assert MemoryWatch().levels[0] > 0  # the device's own


MIXED = {
    "model_type": "gemma3_text",
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 600,
    "sliding_window_pattern": 2,
    "rope_theta": 10000.0,
    "rope_local_base_freq": 10000.0,
    "num_hidden_layers": 4,
}
FAMILIES = {
    "full": lambda: packable()[0],
    "mixed windows": lambda: build_model(PACKABLE | MIXED),
    "latent": lambda: tiny("latent", max_position_embeddings=8192)[0],
    "recurrent": lambda: tiny("recurrent", max_position_embeddings=8192)[0],
    "hybrid": lambda: tiny("hybrid", max_position_embeddings=8192)[0],
}


@pytest.mark.parametrize("options", [KVOptions(), KVOptions(bits=8, group_size=32), KVOptions(max_size=700)], ids=str)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_predictions_are_within_a_tenth_of_the_truth(family, options):
    model = FAMILIES[family]()
    dims = [d for s in model.state_specs() if hasattr(s, "key_dim") for d in (s.key_dim, s.value_dim)]
    if options.bits is not None and any(d % 32 for d in dims):
        options = KVOptions(dtype="float32")  # heads that are too narrow to be packed
    engine = Engine(model, prefill_step_size=512)
    mx.random.seed(3)
    engine.add(Request(prompt=(1,) * 3000, max_tokens=40, kv=options))
    per_block = sum(256 * s.bytes_per_token(mx.float32, options) for s in model.state_specs())
    looks = 0
    while not engine.idle:
        engine.step()
        stats = engine.stats()
        assert stats.predicted_bytes <= stats.reserved_bytes
        # A window holds the latest piece of the prompt as well, until the first step after it.
        if stats.running and stats.counters["generation_tokens"] > 1:
            looks += 1
            off = abs(stats.predicted_bytes - stats.state_bytes)
            assert off <= 0.1 * stats.predicted_bytes + per_block, (stats.predicted_bytes, stats.state_bytes)
    assert looks > 30


def test_a_draft_models_states_are_predicted_too():
    model, _ = packable()
    engine = Engine(model)
    engine.add(Request(prompt=(1,) * 1000, max_tokens=9, speculation=DraftSpeculation(model)))
    engine.step()
    stats = engine.stats()
    assert abs(stats.predicted_bytes - stats.state_bytes) <= 0.1 * stats.predicted_bytes
    plain = Engine(model)
    plain.add(Request(prompt=(1,) * 1000, max_tokens=9))
    plain.step()
    assert stats.predicted_bytes == 2 * plain.stats().predicted_bytes
