"""Everything with everything: batch, speculation, packed caches, kinds of states, grammars, prefix hits, samplers.

Whatever runs together, each answer is the plain one: alone, cold, one token at a time.
"""

import itertools
import random

import pytest
from scripted import OneOf
from test_speculation import noisy, packable, text_like
from tiny_models import WITH_HEAD

from mlx_lm.engine import (
    DraftSpeculation,
    Engine,
    HeadSpeculation,
    NGramSpeculation,
    PrefixCache,
    Probe,
    Request,
    TokenEvent,
)
from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.sampling import make_logits_processors, make_sampler
from mlx_lm.state import KVOptions

KINDS = ["full", "rotating", "limited", "hybrid", "head"]
WAYS = ["none", "lookup", "draft", "head"]
BITS = [None, 8, 4]
GRAMMAR = [False, True]
WHERE = ["cold", "memory", "disk"]
COMBINATIONS = list(itertools.product(KINDS, WAYS, BITS, GRAMMAR, WHERE))
_models: dict[str, object] = {}


def model_of(kind):
    if kind not in _models:
        if kind in ("full", "limited"):
            _models[kind] = packable()[0]
        elif kind == "rotating":
            _models[kind] = packable(model_type="mistral", sliding_window=200)[0]
        else:
            _models[kind] = model = packable(**WITH_HEAD | {"head_dim": 32, "vocab_size": 50})[0]
            if kind == "head":
                import mlx.core as mx

                model.add_next_token_head({"mtp.layers.0.self_attn.q_proj.weight": mx.zeros(())})
                mx.eval(model.parameters())
    return _models[kind]


class Unforced(OneOf):
    """By masks alone, as the plain twin has it."""

    def forced(self):
        return []

    def copy(self):
        return Unforced(self.texts, self.vocab, self.end, self.taken)


def run(engine, requests, chance):
    out, pending = {}, list(requests)
    while pending or not engine.idle:
        if pending and chance.random() < 0.6:
            out[engine.add(pending.pop(0))] = []
        for event in engine.step():
            if isinstance(event, TokenEvent):
                assert event.error is None, event.error
                out[event.uid].append((event.token, event.finish_reason))
        engine.check()
    return list(out.values())


def one(combination, seed, folder):
    kind, way, bits, grammar, where = combination
    chance = random.Random(seed)
    model, vocab = model_of(kind), 50
    if way == "head" and kind != "head":
        way = "lookup"
    kv = KVOptions(
        bits=bits, group_size=32, start=chance.choice([0, 0, 20, 300]), max_size=150 if kind == "limited" else None
    )
    ways = {
        "none": [None],
        "lookup": [
            NGramSpeculation(4, 1, 3),
            NGramSpeculation(6, 2),
            NGramSpeculation(3, 1, probe=Probe(4, 0.5, rest=4)),
        ],
        "draft": [DraftSpeculation(noisy(model_of("full"), 0.01), chance.randint(1, 4))],
        "head": [HeadSpeculation(1), HeadSpeculation(2)],
    }[way]
    shared = text_like(model, vocab, chance.choice([8, 270]), seed)

    def request(i, plain):
        own = random.Random(seed * 100 + i)
        prompt = (*shared, *(own.randrange(vocab) for _ in range(own.randint(1, 12))))
        kwargs = {"max_tokens": own.randint(1, 25)}
        if grammar:
            words = [[own.randrange(vocab) for _ in range(12)] for _ in range(4)]
            words += [words[0][:6] + words[1][6:], words[0][:4] + words[2][4:]]
            prompt = (*prompt, *words[0][:6])
            kwargs["constraint"] = (Unforced if plain else OneOf)(words, vocab)
        speculation = own.choice(ways)
        if own.random() < 0.3 and not grammar:  # a forced token takes no draw, so samples differ from unforced ones
            kwargs["sampler"] = make_sampler(temp=1.0, seed=i)
        if own.random() < 0.3:
            kwargs["logits_processors"] = tuple(make_logits_processors(repetition_penalty=1.2))
        if not plain:
            kwargs["speculation"] = speculation
        return Request(prompt=prompt, kv=kv, **kwargs)

    count = chance.choice([1, 3])
    plain = [run(Engine(model, prefill_step_size=256), [request(i, True)], random.Random(1))[0] for i in range(count)]
    store = DiskStore(folder, budget_bytes=10**8, sync=False) if where == "disk" else None
    cache = None if where == "cold" else PrefixCache(10**8 if store is None else 2000, store)
    engine = Engine(model, max_batch=4, prefill_step_size=256, prefix_cache=cache, model_key="m")
    try:
        for _ in range(1 if cache is None else 2):
            assert run(engine, [request(i, False) for i in range(count)], chance) == plain
            if store is not None:
                assert store.flush(20)
    finally:
        if store is not None:
            store.close()


@pytest.mark.parametrize("part", range(4))
def test_a_sample_of_combinations(part, tmp_path):
    chosen = random.Random(4).sample(COMBINATIONS, 24)
    for n, combination in enumerate(chosen[part::4]):
        one(combination, part * 1000 + n, tmp_path / str(n))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(len(COMBINATIONS)))
def test_every_combination(part, tmp_path):
    for turn in range(3):
        one(COMBINATIONS[part], 10_000 + part * 10 + turn, tmp_path / str(turn))
