"""Random mixes through one engine: lengths, arrivals, cancels, state kinds, packed caches, prefix reuse, policies.

Every answer that was not cancelled equals its solo greedy answer.
"""

import random

import pytest
from tiny_models import MODELS, plain_greedy, tiny

from mlx_lm.engine import Engine, PrefixCache, Request, TokenEvent
from mlx_lm.state import KVOptions


def solo(model, prompt, count, options):
    """The plain twin, alone and without reuse; packed caches run in an engine of their own."""
    if options == KVOptions():
        return plain_greedy(model, prompt, count)
    engine = Engine(model, max_batch=1)
    return [event.token for event in engine.run(engine.add(Request(prompt=prompt, max_tokens=count, kv=options)))]


def packable(model):
    specs = [s for s in model.state_specs() if s.quantizable]
    return bool(specs) and all(hasattr(s, "key_dim") and s.key_dim % 32 == s.value_dim % 32 == 0 for s in specs)


def one_mix(seed):
    chance = random.Random(seed)
    model, vocab = tiny(chance.choice(list(MODELS)), max_position_embeddings=4096)
    cache = PrefixCache(chance.choice([1 << 14, 1 << 17, 1 << 24])) if chance.random() < 0.5 else None
    engine = Engine(
        model,
        max_batch=chance.randint(1, 5),
        prefill_step_size=chance.choice([3, 64, 256, 2048]),
        policy=chance.choice(["fair", "prefill_first", "decode_first"]),
        prefix_cache=cache,
        model_key="m",
        look_ahead=chance.random() < 0.3,
    )
    shared = [chance.randrange(vocab) for _ in range(520)]
    todo = []
    for _ in range(chance.randint(2, 6)):
        begin = shared[: chance.choice([0, 0, 260, 520])]
        prompt = (*begin, *(chance.randrange(vocab) for _ in range(chance.randint(1, 30))))
        packed = packable(model) and chance.random() < 0.3
        todo.append((prompt, chance.randint(1, 8), KVOptions(bits=8, group_size=32) if packed else KVOptions()))
    live, out, cancelled = {}, {}, set()
    while todo or not engine.idle:
        if todo and chance.random() < 0.5:
            prompt, count, options = todo.pop()
            uid = engine.add(Request(prompt=prompt, max_tokens=count, kv=options))
            live[uid], out[uid] = (prompt, count, options), []
        if live and chance.random() < 0.05:
            uid = chance.choice(list(live))
            cancelled.add(uid)
            engine.cancel(uid)
        for event in engine.step():
            if isinstance(event, TokenEvent):
                assert event.error is None, event.error
                out[event.uid].append(event.token)
        engine.check()
    assert engine.stats().reserved_bytes == 0
    for uid, (prompt, count, options) in live.items():
        expected = solo(model, prompt, count, options)
        assert out[uid] == expected if uid not in cancelled else out[uid] == expected[: len(out[uid])]


@pytest.mark.parametrize("part", range(4))
def test_mixes(part):
    for seed in range(part * 6, part * 6 + 6):
        one_mix(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_two_hundred_mixes(part):
    for seed in range(1000 + part * 10, 1010 + part * 10):
        one_mix(seed)
