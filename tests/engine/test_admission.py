"""Admission by predicted bytes: refused, delayed or ended in time, and predictions near the truth."""

import time

import mlx.core as mx
import pytest
from tiny_models import plain_greedy, prompts, tiny

from mlx_lm.engine import Engine, Request, TokenEvent
from mlx_lm.engine.model_states import predict
from mlx_lm.errors import DeadlineError, MemoryBudgetError, OverloadedError
from mlx_lm.state import KVOptions, KVSpec


def run_all(engine):
    events = []
    while not engine.idle:
        events += [e for e in engine.step() if isinstance(e, TokenEvent)]
        engine.check()
    return events


def test_what_can_never_fit_is_refused_before_any_work():
    model, _ = tiny("full", max_position_embeddings=4096)
    one = predict(model, 300, KVOptions())
    engine = Engine(model, memory_budget=one)
    with pytest.raises(MemoryBudgetError, match="GB"):
        engine.add(Request(prompt=(1,) * 900, max_tokens=10))
    assert engine.idle and engine.stats().reserved_bytes == 0


def test_what_does_not_fit_now_waits(full_model):
    model, vocab = full_model
    budget = predict(model, 40, KVOptions())
    engine = Engine(model, memory_budget=budget)
    wanted = prompts(vocab, [20] * 5)
    uids = [engine.add(Request(prompt=tuple(p), max_tokens=10)) for p in wanted]
    most = 0
    out = {uid: [] for uid in uids}
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                out[event.uid].append(event.token)
        stats = engine.stats()
        assert stats.reserved_bytes <= budget
        most = max(most, stats.running)
    assert most == 1
    assert [out[u] for u in uids] == [plain_greedy(model, p, 10) for p in wanted]


def test_an_unlimited_answer_ends_at_the_budget(full_model):
    model, _ = full_model
    engine = Engine(model, memory_budget=predict(model, 10 + 300, KVOptions()))
    engine.add(Request(prompt=(1,) * 10))
    events = run_all(engine)
    assert events[-1].finish_reason == "length" and 250 <= len(events) < 320


def test_queue_and_deadline(full_model):
    model, _ = full_model
    engine = Engine(model, max_queue=1)
    engine.add(Request(prompt=(1, 2), deadline=time.monotonic() - 1))
    with pytest.raises(OverloadedError) as caught:
        engine.add(Request(prompt=(1, 2)))
    assert 1 <= caught.value.retry_after <= 60
    (event,) = run_all(engine)
    assert isinstance(event.error, DeadlineError) and engine.stats().failed == 1


SPECS = {
    "gqa": KVSpec(8, 128, 128),
    "small": KVSpec(3, 64, 64),
    "window": KVSpec(4, 256, 256, window=1024),
    "latent": KVSpec(1, 512, 64, latent=True),
    "uneven": KVSpec(2, 192, 128),
}


@pytest.mark.parametrize("kind", list(SPECS))
@pytest.mark.parametrize("tokens", [700, 6000])
@pytest.mark.parametrize(
    "options", [KVOptions(), KVOptions(bits=8), KVOptions(bits=4, group_size=32), KVOptions(max_size=900)], ids=str
)
def test_predicted_bytes_are_within_a_tenth_of_the_measured(kind, tokens, options):
    spec = SPECS[kind]
    state = spec.create(options)
    for length in [512] * (tokens // 512) + [tokens % 512] + [1] * 8:
        keys = mx.zeros((1, spec.num_kv_heads, length, spec.key_dim), mx.float16)
        values = mx.zeros((1, spec.num_kv_heads, length, spec.value_dim), mx.float16)
        state.update(keys, values)
    predicted = spec.bytes(tokens + 8, mx.float16, options)
    block = 256 * spec.bytes_per_token(mx.float16, options)  # capacities are whole blocks
    assert predicted * 0.9 <= state.nbytes <= predicted * 1.1 + block
