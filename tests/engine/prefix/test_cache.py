"""Prefix hits against cold runs: the same logits, wherever the blocks lie and whatever happened to them."""

import errno
import logging
import random

import mlx.core as mx
import pytest
from faults import faulty
from tiny_models import MODELS, PACKABLE, tiny

from mlx_lm.engine import Engine, Request, TokenEvent
from mlx_lm.engine.model_states import new_states
from mlx_lm.engine.prefix import BLOCK_TOKENS, PrefixCache, namespace
from mlx_lm.engine.prefix.blocks import needs_checkpoints
from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.kernels import native
from mlx_lm.models import build_model
from mlx_lm.state import KVOptions

SPACE = namespace({"model": "x"})
PLENTY = 10**9


@pytest.fixture(params=list(MODELS))
def made(request):
    return tiny(request.param, max_position_embeddings=8192)


def prompt(vocab: int, length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(vocab) for _ in range(length)]


def disk(folder, budget: int = PLENTY) -> DiskStore:
    return DiskStore(folder, budget_bytes=budget, sync=False)


def run(model, tokens, states, start: int = 0) -> mx.array:
    """Logits of the last token; pieces end at blocks, so that hits and cold runs compute the same shapes."""
    logits = None
    while start < len(tokens):
        end = min((start // BLOCK_TOKENS + 1) * BLOCK_TOKENS, len(tokens))
        logits = model(mx.array([tokens[start:end]]), states)[0, -1]
        mx.eval(logits)
        start = end
    return logits


def cold(model, tokens, kv: KVOptions) -> mx.array:
    return run(model, tokens, new_states(model, kv))


def warm(model, cache, tokens, kv: KVOptions, space: bytes = SPACE) -> int:
    """Computes `tokens` through the cache, checks the logits against a cold run, stores, returns what was reused."""
    states = new_states(model, kv)
    reused = cache.reuse(space, tokens, states).tokens
    assert all(state.offset in (0, reused) for state in states) and reused < len(tokens)
    end = len(tokens) // BLOCK_TOKENS * BLOCK_TOKENS
    if reused < end:  # as the engine does: a stop at the last whole block, for the checkpoint
        run(model, tokens[:end], states, reused)
        cache.store(space, tokens[:end], states)
        logits = run(model, tokens, states, end) if end < len(tokens) else None
    else:
        logits = run(model, tokens, states, reused)
    cache.store(space, tokens, states)
    cache.check()
    if logits is not None:
        wanted = cold(model, tokens, kv)
        assert mx.allclose(logits, wanted, rtol=0, atol=1e-5), float(mx.abs(logits - wanted).max())
    return reused


@pytest.mark.parametrize("where", ["memory", "disk", "both", "restart"])
def test_a_hit_equals_a_cold_run(made, where, tmp_path):
    hits_equal_cold_runs(*made, KVOptions(), where, tmp_path)


@pytest.mark.parametrize("where", ["memory", "disk", "restart"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("window", [None, 300])
def test_packed_states(bits, window, where, tmp_path):
    mx.random.seed(0)
    model = build_model(PACKABLE if window is None else PACKABLE | {"model_type": "mistral", "sliding_window": window})
    hits_equal_cold_runs(model, 50, KVOptions(bits=bits, group_size=32), where, tmp_path)


def behind_blocks(model, tokens: int, kv: KVOptions) -> int:
    """What memory gives beside whole blocks: only states that can be cut anywhere have a tail there."""
    return 0 if needs_checkpoints(new_states(model, kv)) else tokens


def hits_equal_cold_runs(model, vocab, kv, where, folder):
    tokens = prompt(vocab, 2 * BLOCK_TOKENS + 30)
    small = where == "disk"  # no room in memory
    store = None if where == "memory" else disk(folder)
    cache = PrefixCache(1500 if small else PLENTY, store)
    assert warm(model, cache, tokens, kv) == 0
    if where == "restart":
        store.close()
        store = disk(folder)
        cache = PrefixCache(PLENTY, store)
    elif store is not None:
        assert store.flush(20)
    known = 512 if small or where == "restart" else 512 + behind_blocks(model, 30, kv)
    assert warm(model, cache, tokens + prompt(vocab, 300, 1), kv) == known
    assert (cache.stats.disk_tokens > 0) == (where in ("disk", "restart"))
    # A prompt that parts from it in the second block.
    parted = tokens[:400] + prompt(vocab, 300, 2)  # 700
    assert warm(model, cache, parted, kv) in (0, 256)  # a model that forgets has a checkpoint at 512 only
    if store is not None:
        assert store.flush(20)
    assert warm(model, cache, parted, kv) == (512 if small else 512 + behind_blocks(model, 187, kv))
    if store is not None:
        store.close()
        assert store.stats().errors == store.stats().corrupt == store.stats().dropped == 0


def test_hits_are_bit_equal(made):
    model, vocab = made
    tokens = prompt(vocab, 600)
    states = new_states(model, KVOptions())
    cache = PrefixCache(PLENTY)
    run(model, tokens[:512], states)
    cache.store(SPACE, tokens[:512], states)
    first = run(model, tokens, states, 512)
    again = new_states(model, KVOptions())
    assert cache.reuse(SPACE, tokens, again).tokens == 512
    assert mx.array_equal(run(model, tokens, again, 512), first)


def test_a_block_is_not_what_the_states_write_later(made):
    """Blocks keep their content while the sequence goes on, is taken back and overwritten."""
    model, vocab = made
    tokens = prompt(vocab, 512)
    cache = PrefixCache(PLENTY)
    states = new_states(model, KVOptions())
    run(model, tokens, states)
    cache.store(SPACE, tokens, states)
    marks = [state.snapshot() for state in states]
    run(model, prompt(vocab, 40, 5), states)
    for state, mark in zip(states, marks, strict=True):
        state.restore(mark)
    run(model, prompt(vocab, 300, 6), states)
    if all(state.can_trim(400) for state in states):
        for state in states:
            state.trim(400)
        run(model, prompt(vocab, 200, 7), states)
    more = [*tokens, 3]
    for _ in range(2):  # and the copies that were handed out write nothing back
        again = new_states(model, KVOptions())
        assert cache.reuse(SPACE, more, again).tokens == 512
        assert mx.allclose(run(model, more, again, 512), cold(model, more, KVOptions()), rtol=0, atol=1e-5)
        if all(state.can_trim(300) for state in again):
            for state in again:
                state.trim(300)
        run(model, prompt(vocab, 250, 8), again)


def test_another_namespace_is_a_miss(made, tmp_path):
    model, vocab = made
    tokens = prompt(vocab, 300)
    with disk(tmp_path) as store:
        cache = PrefixCache(PLENTY, store)
        warm(model, cache, tokens, KVOptions())
        store.flush(20)
        for other in ({"model": "y"}, {"model": "x", "adapter": "a"}, {"model": "x", "salt": "s"}):
            assert cache.reuse(namespace(other), tokens, new_states(model, KVOptions())).tokens == 0
        known = 256 + behind_blocks(model, 43, KVOptions())
        assert cache.reuse(SPACE, tokens, new_states(model, KVOptions())).tokens == known


def test_memory_has_the_short_prefix_and_disk_the_long_one(made, tmp_path):
    model, vocab = made
    tokens = prompt(vocab, 4 * BLOCK_TOKENS + 9)
    with disk(tmp_path) as store:
        warm(model, PrefixCache(PLENTY, store), tokens, KVOptions())
        assert store.flush(20)
        cache = PrefixCache(PLENTY, store)
        states = new_states(model, KVOptions())
        run(model, tokens[:256], states)
        cache.store(SPACE, tokens[:256], states)
        assert len(cache.index) == 1
        assert warm(model, cache, tokens, KVOptions()) == 1024
        assert cache.stats.disk_tokens == 768


def test_a_checkpoint_on_disk_helps_a_block_in_memory(tmp_path):
    model, vocab = tiny("hybrid", max_position_embeddings=8192)
    tokens = prompt(vocab, 600)
    with disk(tmp_path) as store:
        warm(model, PrefixCache(PLENTY, store), tokens, KVOptions())
        assert store.flush(20)
        cache = PrefixCache(PLENTY, store)
        states = new_states(model, KVOptions())
        run(model, [*tokens, *prompt(vocab, 100)], states)
        cache.store(SPACE, [*tokens, *prompt(vocab, 100)], states)  # blocks without a checkpoint
        assert [cache.index.get(k).complete for k in cache.index._blocks] == [False, False]
        assert warm(model, cache, tokens, KVOptions()) == 512
        assert warm(model, cache, tokens, KVOptions()) == 512
        assert cache.stats.disk_tokens == 256  # once


def test_short_prefixes_are_written_when_they_grow(tmp_path):
    model, vocab = tiny("full", max_position_embeddings=8192)
    tokens = prompt(vocab, 800)
    with disk(tmp_path) as store:
        cache = PrefixCache(PLENTY, store, disk_min_tokens=512)
        warm(model, cache, tokens[:300], KVOptions())
        store.flush(20)
        assert store.stats().entries == 0
        warm(model, cache, tokens, KVOptions())
        store.flush(20)
        assert store.stats().entries == 3
        assert warm(model, PrefixCache(PLENTY, store), tokens, KVOptions()) == 768


@pytest.mark.parametrize("budget", [0, 40_000, 150_000])
def test_answers_are_right_under_tiny_budgets(made, budget, tmp_path):
    model, vocab = made
    base = prompt(vocab, 600)
    chance = random.Random(4)
    with disk(tmp_path, 2 * budget) as store:
        cache = PrefixCache(budget, store)
        for turn in range(8):
            cut = chance.randrange(1, 600)
            warm(model, cache, base[:cut] + prompt(vocab, chance.randrange(1, 400), turn), KVOptions())
            assert cache.index.nbytes <= budget and store.stats().bytes <= 2 * budget
            if turn % 3 == 0:
                store.flush(20)
        store.check_books()


def test_damaged_blocks_are_misses(made, tmp_path):
    model, vocab = made
    tokens = prompt(vocab, 1100)
    with disk(tmp_path) as store:
        warm(model, PrefixCache(PLENTY, store), tokens, KVOptions())
        assert store.flush(20)
        for path in tmp_path.glob("??/*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 4
            path.write_bytes(data)
            cache = PrefixCache(PLENTY, store)
            assert warm(model, cache, tokens, KVOptions()) < 1024
            assert store.flush(20)
            assert warm(model, PrefixCache(PLENTY, store), tokens, KVOptions()) == 1024  # written again
        assert store.stats().corrupt == 4


def test_blocks_of_unlike_states_are_a_miss_and_leave_the_states_fresh(made):
    model, vocab = made
    other, _ = tiny("latent" if model.model_type == "llama" else "full", max_position_embeddings=8192)
    tokens = [t % 20 for t in prompt(vocab, 400)]
    cache = PrefixCache(PLENTY)
    states = new_states(other, KVOptions())
    run(other, tokens[:256], states)
    cache.store(SPACE, tokens[:256], states)
    fresh = new_states(model, KVOptions())
    if cache.reuse(SPACE, tokens, fresh).tokens == 0:  # keys name the model, so this needs a clash of hashes
        assert all(state.empty() for state in fresh)


# Through the engine.


def answers(engine: Engine, prompts, count: int = 8, **kwargs) -> tuple[list[list[int]], int]:
    uids = [engine.add(Request(prompt=tuple(p), max_tokens=count, **kwargs)) for p in prompts]
    out: dict[int, list[int]] = {uid: [] for uid in uids}
    before = engine.stats().reused_tokens
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                assert event.error is None, event.error
                out[event.uid].append(event.token)
        engine.check()
    return [out[uid] for uid in uids], engine.stats().reused_tokens - before


def test_batches_with_hits_equal_solo_runs(made, tmp_path):
    model, vocab = made
    base = prompt(vocab, 530)
    prompts = [base, [*base[:300], *prompt(vocab, 260, 1)], [*base, *prompt(vocab, 40, 2)], prompt(vocab, 20, 3), base]
    solo = [answers(Engine(model), [p])[0][0] for p in prompts]
    with disk(tmp_path) as store:
        engine = Engine(model, prefix_cache=PrefixCache(PLENTY, store), model_key="x", prefill_step_size=256)
        assert answers(engine, [base])[0] == solo[:1]
        batch, reused = answers(engine, prompts)
        assert batch == solo and reused >= 3 * 512
    with disk(tmp_path) as store:  # after a restart
        engine = Engine(model, prefix_cache=PrefixCache(PLENTY, store), model_key="x", prefill_step_size=256)
        batch, reused = answers(engine, prompts)
        assert batch == solo and engine.stats().reused_from_disk_tokens > 0
        # Turns: the answer is part of the next prompt.
        longer = [[*p, *a, *prompt(vocab, 30, 9)] for p, a in zip(prompts, batch, strict=True)]
        assert answers(engine, longer)[0] == [answers(Engine(model), [p])[0][0] for p in longer]


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("start", [0, 100, 256, 300, 700])
def test_hits_of_caches_that_are_packed_late_are_bit_equal(start, window):
    mx.random.seed(0)
    model = build_model(PACKABLE if window is None else PACKABLE | {"model_type": "mistral", "sliding_window": window})
    kv = KVOptions(bits=4, group_size=32, start=start)
    base = prompt(50, 1100)
    engine = Engine(model, prefix_cache=PrefixCache(PLENTY), model_key="x", prefill_step_size=256)
    hits = 0
    for turn, length in enumerate([1000, 270, 520, 560, 800, 1040, 600, 290, 1100, 530]):
        tokens = (*base[:length], *prompt(50, 9, turn))

        def events(engine, tokens=tokens):
            found = engine.run(engine.add(Request(prompt=tokens, max_tokens=6, kv=kv)))
            return [(e.token, e.logprobs) for e in found]

        before = engine.stats().reused_tokens
        ours, cold = events(engine), events(Engine(model, prefill_step_size=256))
        hits += engine.stats().reused_tokens > before
        assert [t for t, _ in ours] == [t for t, _ in cold]
        for (_, ours_), (_, cold_) in zip(ours, cold, strict=True):
            same = mx.array_equal if native.extension() is not None else mx.allclose
            assert same(ours_, cold_)
        engine.check()
    stats = engine.stats()
    assert hits >= 3 and stats.prefix_tokens == sum([1009, 279, 529, 569, 809, 1049, 609, 299, 1109, 539])


def test_salts_are_apart():
    model, vocab = tiny("full", max_position_embeddings=8192)
    engine = Engine(model, prefix_cache=PrefixCache(PLENTY), model_key="x")
    tokens = prompt(vocab, 300)
    assert answers(engine, [tokens], cache_salt="a")[1] == 0
    assert answers(engine, [tokens], cache_salt="b")[1] == 0
    assert answers(engine, [tokens], cache_salt="a")[1] == 299


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_requests_are_answered_whichever_call_fails(tmp_path, code):
    logging.disable(logging.CRITICAL)
    try:
        model, vocab = tiny("hybrid", max_position_embeddings=8192)
        tokens = prompt(vocab, 300)
        (wanted,), _ = answers(Engine(model), [tokens], 3)

        def serve(folder):
            for _ in range(2):
                with disk(folder, 100_000) as store:
                    engine = Engine(model, prefix_cache=PrefixCache(PLENTY, store), model_key="x")
                    assert answers(engine, [tokens], 3)[0] == [wanted]
                    store.flush(20)

        with faulty(None) as faults:
            serve(tmp_path / "count")
        assert faults.seen > 15
        for n in range(1, faults.seen + 1):
            with faulty(n, code) as struck:
                serve(tmp_path / str(n))
            assert struck.raised == 1
    finally:
        logging.disable(logging.NOTSET)


def test_a_store_that_raises_fails_no_request():
    class Broken:
        read_only = False

        def contains(self, *args, **kwargs):
            raise RuntimeError("a fault of the store's own")

        get = put = contains

    logging.disable(logging.CRITICAL)
    try:
        model, vocab = tiny("full", max_position_embeddings=8192)
        tokens = prompt(vocab, 300)
        engine = Engine(model, prefix_cache=PrefixCache(PLENTY, Broken()), model_key="x")
        assert answers(engine, [tokens])[0] == answers(Engine(model), [tokens])[0]
    finally:
        logging.disable(logging.NOTSET)
