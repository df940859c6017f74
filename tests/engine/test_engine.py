"""The engine against the plain twin: one model call per token over the whole history."""

import random

import mlx.core as mx
import pytest
from tiny_models import plain_greedy, prompts, tiny

from mlx_lm.engine import (
    BatchGenerator,
    Engine,
    PrefixCache,
    Request,
    TokenEvent,
    generate_step,
    speculative_generate_step,
)
from mlx_lm.errors import CacheMismatchError, ContextLengthError, RequestError, UnsupportedError
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache, trim_prompt_cache
from mlx_lm.sampling import make_logits_processors, make_sampler


def tokens(prompt, model, **kwargs):
    return [token for token, _ in generate_step(mx.array(prompt), model, **kwargs)]


@pytest.mark.parametrize("step", [1, 3, 2048])
def test_one_sequence(any_model, step):
    model, vocab = any_model
    (prompt,) = prompts(vocab, [11])
    assert tokens(prompt, model, max_tokens=12, prefill_step_size=step) == plain_greedy(model, prompt, 12)


@pytest.mark.parametrize("look_ahead", [False, True])
def test_batches_equal_solo_runs(any_model, look_ahead):
    model, vocab = any_model
    chance = random.Random(3)
    wanted = [(p, chance.randrange(1, 14)) for p in prompts(vocab, [1, 17, 4, 9, 2, 12])]
    engine = Engine(model, max_batch=4, prefill_step_size=5, look_ahead=look_ahead)
    results, requests = {}, {}
    pending = list(wanted)
    while pending or not engine.idle:
        if pending and chance.random() < 0.4:  # arrivals at any time
            prompt, count = pending.pop(0)
            uid = engine.add(Request(prompt=tuple(prompt), max_tokens=count, keep_states=True))
            results[uid], requests[uid] = [], (prompt, count)
        for event in engine.step():
            if isinstance(event, TokenEvent):
                assert event.error is None
                results[event.uid].append(event.token)
        engine.check()
    for uid, (prompt, count) in requests.items():
        assert results[uid] == plain_greedy(model, prompt, count)
        states, seen = engine.take(uid)
        # The states hold everything but the last token, so the sequence can be continued.
        assert seen == prompt + results[uid]
        assert max(s.offset for s in states) == len(seen) - 1
        more = tokens(seen[-1:], model, max_tokens=3, prompt_cache=states)
        assert more == plain_greedy(model, seen, 3)


def test_cancel_leaves_the_others_alone(any_model):
    model, vocab = any_model
    a, b, c = prompts(vocab, [6, 7, 30])
    engine = Engine(model, prefill_step_size=4)
    first, second, third = (engine.add(Request(prompt=tuple(p), max_tokens=10)) for p in (a, b, c))
    out = []
    for i in range(200):
        out += [e.token for e in engine.step() if isinstance(e, TokenEvent) and e.uid == second]
        if i == 4:
            engine.cancel(first)
            engine.cancel(third)
            engine.cancel(12345)
        engine.check()
    assert engine.idle and out == plain_greedy(model, b, 10)


@pytest.mark.parametrize("stage", ["processor", "sampler", "progress"])
def test_a_failure_ends_one_request(full_model, stage):
    model, vocab = full_model
    good, bad = prompts(vocab, [5, 6])

    def explode(*_):
        raise RuntimeError("boom")

    kwargs = {
        "processor": {"logits_processors": (explode,)},
        "sampler": {"sampler": explode},
        "progress": {"on_progress": explode},
    }[stage]
    engine = Engine(model)
    fine = engine.add(Request(prompt=tuple(good), max_tokens=6))
    broken = engine.add(Request(prompt=tuple(bad), max_tokens=6, **kwargs))
    out, errors = [], []
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                (errors if event.uid == broken else out).append(event)
        engine.check()
    assert [e.token for e in out] == plain_greedy(model, good, 6) and all(e.uid == fine for e in out)
    assert len(errors) == 1 and "boom" in str(errors[0].error)


def test_a_sampler_that_fails_late_does_not_disturb_its_batch(any_model):
    model, vocab = any_model
    good, bad = prompts(vocab, [5, 6])
    calls = []

    def fails_at_third(logprobs):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("boom")
        return mx.argmax(logprobs, axis=-1)

    engine = Engine(model)
    fine = engine.add(Request(prompt=tuple(good), max_tokens=8))
    engine.add(Request(prompt=tuple(bad), max_tokens=8, sampler=fails_at_third))
    out = []
    while not engine.idle:
        out += [e.token for e in engine.step() if isinstance(e, TokenEvent) and e.uid == fine]
    assert out == plain_greedy(model, good, 8)


def test_processors_see_every_token_exactly_once(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [7])
    calls = []

    def spy(history, logits):
        assert history.ndim == 1 and logits.shape == (1, vocab)
        calls.append(history.tolist())
        return logits

    out = tokens(prompt, model, max_tokens=5, logits_processors=[spy], prefill_step_size=3)
    assert calls == [prompt + out[:i] for i in range(5)]


def test_penalties_change_the_text_and_bias_forbids(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [7])
    first = tokens(prompt, model, max_tokens=1)[0]
    banned = make_logits_processors(logit_bias={first: -1e9})
    assert first not in tokens(prompt, model, max_tokens=8, logits_processors=banned)
    with pytest.raises(RequestError, match="vocabulary"):
        tokens(prompt, model, max_tokens=2, logits_processors=make_logits_processors(logit_bias={vocab: 1.0}))


def test_seeds_reproduce_whatever_else_runs(full_model):
    model, vocab = full_model
    (prompt, other) = prompts(vocab, [7, 9])
    solo = tokens(prompt, model, max_tokens=12, sampler=make_sampler(temp=1.0, seed=7))
    assert solo == tokens(prompt, model, max_tokens=12, sampler=make_sampler(temp=1.0, seed=7))
    assert solo != tokens(prompt, model, max_tokens=12, sampler=make_sampler(temp=1.0, seed=8))
    generator = BatchGenerator(model, max_tokens=12)
    uid, _ = generator.insert(
        [prompt, other], samplers=[make_sampler(temp=1.0, seed=7), make_sampler(temp=1.0, seed=1)]
    )
    out = []
    while results := generator.next_generated():
        out += [r.token for r in results if r.uid == uid]
    assert out == solo


def test_logprobs_are_those_of_the_model(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [7])
    for token, logprobs in generate_step(prompt, model, max_tokens=4):
        logits = model(mx.array([prompt]))[0, -1]
        assert mx.allclose(logprobs, logits - mx.logsumexp(logits), atol=1e-4)
        prompt = [*prompt, token]


def test_prompt_caches_continue_and_rewind(any_model, tmp_path):
    model, vocab = any_model
    (prompt,) = prompts(vocab, [14])
    expected = plain_greedy(model, prompt, 6)
    cache = make_prompt_cache(model)
    tokens(prompt[:9], model, max_tokens=1, prompt_cache=cache)
    save_prompt_cache(tmp_path / "c.safetensors", cache, {"model": "tiny"})
    assert tokens(prompt[9:], model, max_tokens=6, prompt_cache=cache) == expected
    again, metadata = load_prompt_cache(tmp_path / "c.safetensors", return_metadata=True)
    assert metadata == {"model": "tiny"}
    assert tokens(prompt[9:], model, max_tokens=6, prompt_cache=again) == expected
    back = trim_prompt_cache(again, 10)
    if back:
        assert back == 10 and tokens(prompt[9:], model, max_tokens=6, prompt_cache=again) == expected


def test_another_models_cache_is_refused(full_model):
    model, _vocab = full_model
    other, _ = tiny("hybrid")
    cache = make_prompt_cache(other)
    list(generate_step([1, 2, 3], other, max_tokens=1, prompt_cache=cache))
    with pytest.raises(CacheMismatchError, match="layer"):
        tokens([1, 2, 3], model, max_tokens=1, prompt_cache=cache)


def test_limits(full_model):
    model, _vocab = full_model
    context = model.context_length
    called = []
    too_long = [1] * (context + 1)
    with pytest.raises(ContextLengthError, match=f"{context + 1:,} tokens.*{context:,}"):
        tokens(too_long, model, prompt_progress_callback=lambda *a: called.append(a))
    assert not called  # refused before any computation
    room = tokens([1] * (context - 5), model)
    assert len(room) == 5  # no limit given: to the end of the context
    for bad in (0, -2, True, 1.5):
        with pytest.raises(RequestError, match="max_tokens"):
            tokens([1], model, max_tokens=bad)
    with pytest.raises(RequestError, match="empty"):
        tokens([], model)
    with pytest.raises(RequestError, match="kv_bits"):
        tokens([1], model, kv_bits=7)
    with pytest.raises(TypeError):
        tokens([1], model, foo="bar")


def test_progress_counts_to_the_end(full_model):
    model, _ = full_model
    seen = []
    tokens(
        [1] * 10, model, max_tokens=1, prefill_step_size=4, prompt_progress_callback=lambda d, t: seen.append((d, t))
    )
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_speculation_gives_the_same_tokens(any_model, noise, width):
    model, vocab = any_model
    mx.random.seed(0)
    draft, _ = any_model
    if noise:
        from mlx.utils import tree_map

        from mlx_lm.models import build_model  # noqa: F401

        draft = type(model)(model.args)
        draft.update(
            tree_map(lambda w: w + noise * mx.random.normal(w.shape) if w.ndim == 2 else w, model.parameters())
        )
    (prompt,) = prompts(vocab, [9])
    expected = plain_greedy(model, prompt, 15)
    cache = make_prompt_cache(model) + make_prompt_cache(draft)
    out = list(
        speculative_generate_step(prompt, model, draft, num_draft_tokens=width, max_tokens=15, prompt_cache=cache)
    )
    assert [t for t, _, _ in out] == expected
    drafted = sum(d for _, _, d in out)
    assert drafted > 0 if noise == 0 else True
    # The states can be continued from, wherever a run was cut.
    layers = len(model.layers)
    assert max(s.offset for s in cache[:layers]) == len(prompt) + 14
    more = tokens(expected[-1:], model, max_tokens=4, prompt_cache=cache[:layers])
    assert more == plain_greedy(model, prompt + expected, 4)


def test_a_draft_with_another_vocabulary_is_refused(full_model):
    model, _ = full_model
    other, _ = tiny("latent")
    if other.args.vocab_size == model.args.vocab_size:
        other.args.vocab_size += 1
    with pytest.raises(UnsupportedError, match="tokenizer"):
        list(speculative_generate_step([1, 2], model, other, max_tokens=3))


def test_equal_seeds_in_one_batch_are_each_as_alone(any_model):
    model, vocab = any_model
    wanted = prompts(vocab, [7, 7, 9])
    wanted[1] = wanted[0]
    solo = [tokens(p, model, max_tokens=10, sampler=make_sampler(temp=1.3, top_p=0.9, seed=5)) for p in wanted]
    generator = BatchGenerator(model, max_tokens=10)
    uids = generator.insert(wanted, samplers=[make_sampler(temp=1.3, top_p=0.9, seed=5) for _ in wanted])
    out = {uid: [] for uid in uids}
    while results := generator.next_generated():
        for r in results:
            out[r.uid].append(r.token)
    assert [out[u] for u in uids] == solo and solo[0] == solo[1]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("stage", ["processor", "sampler", "late"])
def test_a_failure_in_a_batch_calls_nobody_twice(any_model, stage, place):
    model, vocab = any_model
    wanted = prompts(vocab, [5, 6, 4])
    calls = []

    def spy(history, logits):
        calls.append(history.tolist())
        return logits

    def explode(*args):
        if len(args[0]) > 8 or args[0].shape[0] == 1:
            count.append(1)
        if len(count) < 3:
            return args[-1] if stage == "processor" else mx.argmax(args[-1], axis=-1)
        if stage == "late":  # fails when it is read
            return mx.zeros((3,), mx.uint32)
        raise RuntimeError("boom")

    count = []
    bad = {"logits_processors": (explode,)} if stage == "processor" else {"sampler": explode}
    engine = Engine(model)
    uids = [
        engine.add(
            Request(
                prompt=tuple(p),
                max_tokens=8,
                **(bad if i == place else {"logits_processors": (spy,), "sampler": make_sampler(temp=1.0, seed=i)}),
            )
        )
        for i, p in enumerate(wanted)
    ]
    out, errors = {uid: [] for uid in uids}, []
    while not engine.idle:
        for e in engine.step():
            if isinstance(e, TokenEvent):
                errors.append(e.uid) if e.error is not None else out[e.uid].append(e.token)
        engine.check()
    assert errors == [uids[place]]
    seen = []
    for i, p in enumerate(wanted):
        if i != place:
            assert out[uids[i]] == tokens(p, model, max_tokens=8, sampler=make_sampler(temp=1.0, seed=i))
            seen += [p + out[uids[i]][:n] for n in range(8)]
    assert sorted(calls) == sorted(seen)


def test_a_forward_pass_that_fails_leaves_every_state_as_it_was(any_model):
    model, vocab = any_model
    wanted = prompts(vocab, [5, 6, 4])
    engine = Engine(model)
    uids = [engine.add(Request(prompt=tuple(p), max_tokens=8)) for p in wanted]
    real, failures = engine._runner._hidden, []

    def half_way(inputs, states, **kwargs):
        if inputs.shape[0] > 1 and len(failures) < 3:
            failures.append(1)
            real(inputs, states)  # the states have moved
            raise RuntimeError("boom")
        return real(inputs, states, **kwargs)

    engine._runner._hidden = half_way
    out = {uid: [] for uid in uids}
    while not engine.idle:
        for e in engine.step():
            if isinstance(e, TokenEvent):
                assert e.error is None
                out[e.uid].append(e.token)
    assert len(failures) == 3
    assert [out[u] for u in uids] == [plain_greedy(model, p, 8) for p in wanted]


@pytest.mark.parametrize("parts", [True, False])
def test_prompts_are_computed_beside_decoding(any_model, parts):
    """Some layers in each step where the model goes in parts: the same tokens, and each step gives every stream one."""
    model, vocab = any_model
    wanted = prompts(vocab, [5, 6, 40, 23])
    engine = Engine(model, prefill_step_size=7)
    assert engine._runner.in_parts
    engine._runner.in_parts = parts
    engine._pace.layers = lambda tokens, count, done: 1
    out: dict[int, list[int]] = {}
    begun = 0
    for p in wanted:
        out[engine.add(Request(prompt=tuple(p), max_tokens=60))] = []
        for _ in range(6):
            running = engine.stats().running
            events = [e for e in engine.step() if isinstance(e, TokenEvent)]
            assert all(e.error is None for e in events) and len(events) >= running
            begun += any(live.sequence.piece is not None for live in engine._live.values())
            for e in events:
                out[e.uid].append(e.token)
    while not engine.idle:
        for e in engine.step():
            if isinstance(e, TokenEvent):
                out[e.uid].append(e.token)
        engine.check()
    assert list(out.values()) == [plain_greedy(model, p, 60) for p in wanted]
    assert (begun > 3) is parts
    stats = engine.stats()
    assert stats.counters["prompt_tokens"] == sum(map(len, wanted)) and stats.counters["prompt_time"] > 0


@pytest.mark.parametrize("how", ["cancelled", "stream ends"])
def test_what_becomes_of_a_prompt_on_its_way(any_model, how):
    """A prompt that some layers have computed: cancelled, it leaves no trace; alone, it is finished."""
    model, vocab = any_model
    a, b = prompts(vocab, [4, 300])
    cache = PrefixCache(1 << 24)
    engine = Engine(model, prefix_cache=cache, prefill_step_size=280)
    engine._pace.layers = lambda tokens, count, done: 1
    engine.add(Request(prompt=tuple(a), max_tokens=8 if how == "stream ends" else 60))
    while engine.stats().running < 1:
        engine.step()
    second = engine.add(Request(prompt=tuple(b), max_tokens=5))
    events = []
    for _ in range(50):
        events += [e for e in engine.step() if isinstance(e, TokenEvent)]
        if second in engine.live and engine._live[second].sequence.piece is not None:
            break
    assert engine._live[second].sequence.piece is not None
    if how == "cancelled":
        engine.cancel(second)
    while not engine.idle:
        events += [e for e in engine.step() if isinstance(e, TokenEvent)]
        engine.check()
    if how == "cancelled":
        second = engine.add(Request(prompt=tuple(b), max_tokens=5))
        while not engine.idle:
            events += [e for e in engine.step() if isinstance(e, TokenEvent)]
    assert [e.token for e in events if e.uid == second] == plain_greedy(model, b, 5)
    assert not any(e.error for e in events)


def test_a_sampler_that_fails_on_a_prompts_last_piece_ends_that_request_alone():
    model, vocab = tiny("full")
    a, b = prompts(vocab, [4, 20])
    engine = Engine(model, prefill_step_size=8)

    def bad(logprobs):
        raise ValueError("no")

    first = engine.add(Request(prompt=tuple(a), max_tokens=20))
    while engine.stats().running < 1:
        engine.step()
    second = engine.add(Request(prompt=tuple(b), max_tokens=20, sampler=bad))
    events = []
    while not engine.idle:
        events += [e for e in engine.step() if isinstance(e, TokenEvent)]
        engine.check()
    (failed,) = [e for e in events if e.uid == second]
    assert isinstance(failed.error, ValueError)
    assert [e.token for e in events if e.uid == first] == plain_greedy(model, a, 20)[-len(events) + 1 :]
