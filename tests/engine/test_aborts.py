"""A thousand requests of every kind, most of them cut off at a random moment: nothing is left, the books balance."""

import gc
import random

from scripted import OneOf
from test_speculation import noisy, speculation
from tiny_models import tiny

from mlx_lm.engine import Engine, PrefixCache, Request, TokenEvent
from mlx_lm.sampling import make_sampler
from mlx_lm.state import AttentionState


def live_states():
    return sum(isinstance(o, AttentionState) for o in gc.get_objects())


def test_a_thousand_aborts_leave_nothing():
    model, vocab = tiny("full", max_position_embeddings=4096)
    chance = random.Random(0)
    cache = PrefixCache(1 << 20)
    engine = Engine(
        model, max_batch=6, prefill_step_size=64, memory_budget=50_000_000, prefix_cache=cache, model_key="m"
    )
    draft = noisy(model, 0.02)
    shared = [chance.randrange(vocab) for _ in range(300)]
    begun = ended = 0
    live: list[int] = []
    gc.collect()
    before = live_states()

    def request():
        kwargs = {}
        kind = chance.randrange(6)
        if kind == 0:
            kwargs["constraint"] = OneOf([[chance.randrange(vocab) for _ in range(9)] for _ in range(3)], vocab)
        if kind in (1, 2):
            kwargs["speculation"] = speculation("ngram", model, 4)
        if kind == 3:
            from mlx_lm.engine import DraftSpeculation

            kwargs["speculation"] = DraftSpeculation(draft, 3)
        if kind == 4:
            kwargs["sampler"] = make_sampler(temp=1.0, seed=begun)
        prompt = shared[: chance.choice([0, 0, 0, 280])] + [
            chance.randrange(vocab) for _ in range(chance.randint(1, 20))
        ]
        return Request(
            prompt=tuple(prompt), max_tokens=chance.randint(1, 30), keep_states=chance.random() < 0.2, **kwargs
        )

    while begun < 1000 or not engine.idle:
        while begun < 1000 and len(live) < 10:
            live.append(engine.add(request()))
            begun += 1
        for event in engine.step():
            if isinstance(event, TokenEvent):
                assert event.error is None, event.error
                if event.finish_reason is not None:
                    live.remove(event.uid)
                    engine.take(event.uid)
                    ended += 1
        for uid in list(live):
            if chance.random() < 0.25:
                engine.cancel(uid)
                engine.take(uid)
                live.remove(uid)
                ended += 1
        if begun % 50 == 0:
            engine.check()
    engine.check()
    stats = engine.stats()
    assert ended == 1000 == stats.finished + stats.cancelled and stats.failed == 0
    assert stats.cancelled > 500
    assert stats.queued == stats.prefilling == stats.running == 0
    assert stats.reserved_bytes == stats.predicted_bytes == stats.state_bytes == 0
    assert stats.drafted_tokens >= stats.accepted_tokens > 0 and stats.reused_tokens > 0 and stats.forced_tokens > 0
    assert not engine._finished
    engine.step()
    gc.collect()
    assert live_states() == before  # the prefix cache keeps arrays, not states
