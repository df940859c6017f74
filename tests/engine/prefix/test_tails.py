"""Tails behind the last whole block against cold runs: the same bits, however long the tail and the part of it."""

import random

import mlx.core as mx
import pytest
from tiny_models import PACKABLE, tiny

from mlx_lm.engine import Engine, Request
from mlx_lm.engine.model_states import new_states
from mlx_lm.engine.prefix import PrefixCache, namespace
from mlx_lm.engine.prefix.blocks import Payload
from mlx_lm.engine.prefix.index import BlockIndex
from mlx_lm.engine.prefix.tails import SLOTS, Tail, Tails
from mlx_lm.kernels import native
from mlx_lm.models import build_model
from mlx_lm.state import KVOptions

SPACE = namespace({"model": "x"})
PLENTY = 10**9
WAYS = {"full": KVOptions(), "latent": KVOptions(), "8 bits": KVOptions(bits=8, group_size=32)}


@pytest.fixture(params=[*WAYS, "4 bits from 300"])
def made(request):
    """(model, vocabulary, how keys and values are kept)"""
    if request.param in ("full", "latent"):
        return *tiny(request.param, max_position_embeddings=8192), KVOptions()
    mx.random.seed(0)
    late = KVOptions(bits=4, group_size=32, start=300)
    return build_model(PACKABLE), 50, WAYS.get(request.param, late)


def tokens_of(vocab: int, length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(vocab) for _ in range(length)]


def answer(engine: Engine, tokens: list[int], kv: KVOptions, count: int = 5) -> tuple[list, int]:
    """(events, tokens of the prompt that were known)"""
    before = engine.stats().reused_tokens
    events = list(engine.run(engine.add(Request(prompt=tuple(tokens), max_tokens=count, kv=kv))))
    engine.check()
    return events, engine.stats().reused_tokens - before


def same(model: object, events: list, cold: list) -> None:
    """Bit-equal where operations do not depend on the pieces: latent attention has another form for short ones."""
    assert [e.token for e in events] == [e.token for e in cold]
    exact = native.extension() is not None and model.model_type != "deepseek_v2"
    for ours, theirs in zip(events, cold, strict=True):
        far = mx.abs(ours.logprobs - theirs.logprobs).max().item()
        assert far == 0 if exact else far < 1e-5


@pytest.mark.parametrize("length", [2, 40, 255, 256, 257, 300, 511, 530])
def test_a_turn_goes_on_where_the_last_one_ended(made, length):
    model, vocab, kv = made
    cached, plain = Engine(model, prefix_cache=PrefixCache(PLENTY), model_key="x"), Engine(model)
    tokens, held = tokens_of(vocab, length), 0
    for turn in range(4):
        events, known = answer(cached, tokens, kv)
        same(model, events, answer(plain, tokens, kv)[0])
        # A cache that is packed late is kept in two ways; a turn that changes over begins again.
        crossed = kv.start > 0 and held <= kv.start < len(tokens) + 4
        assert known == held or crossed
        held = len(tokens) + len(events) - 1
        tokens = [*tokens, *(e.token for e in events), *tokens_of(vocab, 30, turn)]


def test_as_much_of_a_tail_is_used_as_is_common(made):
    model, vocab, kv = made
    base = tokens_of(vocab, 700)
    for parting in (1, 17, 255, 256, 300, 513, 640, 699):
        cached = Engine(model, prefix_cache=PrefixCache(PLENTY), model_key="x")
        answer(cached, base, kv)
        other = [*base[:parting], (base[parting] + 1) % vocab, *tokens_of(vocab, 9, 3)]
        events, known = answer(cached, other, kv)
        same(model, events, answer(Engine(model), other, kv)[0])
        # Blocks are whole or not at all, and 700 tokens hold two.
        whole = parting if parting > 512 else parting // 256 * 256
        assert known == (whole if kv.start == 0 or whole > kv.start else 0)
        again, known = answer(cached, base, kv)
        same(model, again, answer(Engine(model), base, kv)[0])
        assert known == 699


def test_conversations_behind_one_beginning(made):
    """Each finds its own tail; what is computed later is not written into it."""
    model, vocab, kv = made
    engine, plain = Engine(model, prefix_cache=PrefixCache(PLENTY), model_key="x"), Engine(model)
    base = tokens_of(vocab, 350)
    talks = [[*base, *tokens_of(vocab, 20 + n, n + 1)] for n in range(SLOTS)]
    for turn in range(3):
        for n, talk in enumerate(talks):
            events, known = answer(engine, talk, kv, 3)
            same(model, events, answer(plain, talk, kv, 3)[0])
            assert turn == 0 or known >= len(talk) - 11
            talks[n] = [*talk, *(e.token for e in events), *tokens_of(vocab, 10, 100 * turn + n)]


def test_states_that_forget_have_none():
    for kind in ("window", "recurrent", "hybrid"):
        model, vocab = tiny(kind, max_position_embeddings=8192)
        engine = Engine(model, prefix_cache=PrefixCache(PLENTY), model_key="x")
        assert [answer(engine, tokens_of(vocab, 300), KVOptions())[1] for _ in range(2)] == [0, 256]


@pytest.mark.parametrize("budget", [0, 5_000, 60_000, 120_000])
def test_the_budget_holds(budget):
    model, vocab = tiny("full", max_position_embeddings=8192)
    cache = PrefixCache(budget)
    engine, plain = Engine(model, prefix_cache=cache, model_key="x"), Engine(model)
    chance = random.Random(2)
    base = tokens_of(vocab, 600)
    for turn in range(25):
        tokens = base[: chance.randrange(1, 600)] + tokens_of(vocab, chance.randrange(1, 200), turn)
        same(model, answer(engine, tokens, KVOptions())[0], answer(plain, tokens, KVOptions())[0])
        assert cache.index.nbytes <= budget


def test_a_tail_of_unlike_states_is_a_miss_and_leaves_the_states_fresh():
    model, vocab = tiny("full", max_position_embeddings=8192)
    other, _ = tiny("latent", max_position_embeddings=8192)
    tokens = [t % 20 for t in tokens_of(vocab, 100)]
    cache = PrefixCache(PLENTY)
    states = new_states(other)
    other(mx.array([tokens]), states)
    cache.store(SPACE, tokens, states)
    assert len(cache.index) == 1
    fresh = new_states(model)
    found = cache.reuse(SPACE, tokens, fresh).tokens  # keys name the model, so this needs a clash of hashes
    assert found == 99 if len(fresh) == len(states) else (found == 0 and all(state.empty() for state in fresh))


def test_at_most_and_more_than():
    model, vocab = tiny("full", max_position_embeddings=8192)
    tokens = tokens_of(vocab, 400)
    cache = PrefixCache(PLENTY)
    states = new_states(model)
    model(mx.array([tokens]), states)
    assert cache.store(SPACE, tokens, states) == 1
    for limits, known in (
        ({}, 399), ({"at_most": 300}, 300), ({"at_most": 100}, 0), ({"more_than": 398}, 399), ({"more_than": 399}, 0)
    ):  # fmt: skip
        fresh = new_states(model)
        assert cache.reuse(SPACE, tokens, fresh, **limits).tokens == known
        assert {state.offset for state in fresh} == {known}


# The tails alone.


def put(tails: Tails, tokens: list[int], place: bytes = b"p") -> bytes | None:
    key = tails.wants(place, tokens)
    if key is not None:
        assert tails.put(None, Tail(key, tuple(tokens), Payload({}, {})))
    return key


def test_one_that_goes_on_takes_the_place_of_the_shorter():
    index = BlockIndex(PLENTY)
    tails = Tails(index)
    first = put(tails, [1, 2, 3])
    assert put(tails, [1, 2]) is None and put(tails, [1, 2, 3]) is None
    assert put(tails, [1, 2, 3, 4]) == first and len(index) == 1
    assert put(tails, [1, 2, 9]) != first and put(tails, [1, 2], b"q") is not None and len(index) == 3
    tail, length = tails.find(b"p", [1, 2, 3, 4, 5])
    assert tail is not None and (tail.tokens, length) == ((1, 2, 3, 4), 4)
    assert tails.find(b"p", [1, 2, 9, 9])[1] == 3 and tails.find(b"p", [1])[1] == 1
    assert (
        tails.find(b"p", [7]) == (None, 0) and tails.find(b"r", [1]) == (None, 0) and tails.find(b"p", []) == (None, 0)
    )
    index.check()


def test_the_one_longest_unused_makes_room():
    index = BlockIndex(PLENTY)
    tails = Tails(index)
    keys = [put(tails, [n, n]) for n in range(SLOTS)]
    assert len(set(keys)) == SLOTS == len(index)
    index.touch([keys[0]])
    assert put(tails, [99]) == keys[1] and len(index) == SLOTS
    assert tails.find(b"p", [1]) == (None, 0) and tails.find(b"p", [0])[1] == 1
    index.check()
