"""Grammars inside the engine: alone, in batches, forced tokens, processors, samplers, prefix hits, packed caches."""

import random

import mlx.core as mx
import pytest
from scripted import OneOf
from tiny_models import plain_greedy, prompts, tiny

from mlx_lm.engine import BatchGenerator, Engine, PrefixCache, Request, TokenEvent, generate_step
from mlx_lm.errors import GrammarError
from mlx_lm.sampling import make_sampler
from mlx_lm.state import KVOptions


def texts(vocab, seed, count=6, length=9, shared=4):
    """Random texts in which runs are forced: a common beginning, a branch, then no choice."""
    chance = random.Random(seed)
    begin = [chance.randrange(vocab) for _ in range(shared)]
    return [(*begin, *(chance.randrange(vocab) for _ in range(length - shared))) for _ in range(count)]


def plain_constrained(model, prompt, constraint, count, stop=()):
    """The plain twin: the whole history each time, every token by mask alone."""
    ids, constraint, out = list(prompt), constraint.copy(), []
    while len(out) < count and not constraint.done and not (out and out[-1] in stop):
        logits = model(mx.array([ids + out]))[0, -1].tolist()
        out.append(max(constraint._allowed(), key=lambda t: logits[t]))
        constraint.accept(out[-1])
    return out


def run(engine, requests):
    out = {engine.add(r): [] for r in requests}
    while not engine.idle:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                out[event.uid].append(event)
        engine.check()
    return list(out.values())


def ids(events):
    return [e.token for e in events]


def test_answers_are_those_of_the_grammar(any_model):
    model, vocab = any_model
    wanted = prompts(vocab, [5, 17, 1, 8], seed=2)
    grammars = [OneOf(texts(vocab, i), vocab) for i in range(4)]
    solo = [plain_constrained(model, p, g, 20) for p, g in zip(wanted, grammars, strict=True)]
    free = plain_greedy(model, wanted[0], 9)
    for together in (False, True):
        requests = [
            Request(prompt=tuple(p), constraint=g, max_tokens=20) for p, g in zip(wanted, grammars, strict=True)
        ]
        requests.append(Request(prompt=tuple(wanted[0]), max_tokens=9))
        engine = Engine(model, prefill_step_size=6)
        got = run(engine, requests) if together else [run(engine, [r])[0] for r in requests]
        assert [ids(e) for e in got] == [*solo, free]
        assert all(e[-1].finish_reason == "stop" for e in got[:4]) and all(not g.taken for g in grammars)
        assert engine.stats().forced_tokens > 0


def test_forced_tokens_take_one_step(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [7])
    calls = []
    hidden = model.hidden
    model.hidden = lambda x, *a, **k: calls.append(x.shape) or hidden(x, *a, **k)
    text = texts(vocab, 3, count=1, length=12, shared=12)
    ((*events,),) = run(Engine(model), [Request(prompt=tuple(prompt), constraint=OneOf(text, vocab))])
    assert tuple(ids(events)) == text[0] and events[-1].finish_reason == "stop"
    assert calls == [(1, 7), (1, 12)]  # the first comes with the prompt
    seen = list(prompt)
    for event in events:  # the model's own log-probabilities, which the grammar did not change
        logits = model(mx.array([seen]))[0, -1]
        assert mx.allclose(event.logprobs, logits - mx.logsumexp(logits), atol=1e-4)
        seen.append(event.token)


def test_long_forced_runs_do_not_hold_up_others():
    model, vocab = tiny("full", max_position_embeddings=4096)
    wanted = prompts(vocab, [7, 5])
    text = texts(vocab, 3, count=1, length=900, shared=900)
    engine = Engine(model)
    longest, hidden = [0], model.hidden
    model.hidden = lambda x, *a, **k: longest.append(x.shape[1]) or hidden(x, *a, **k)
    a, b = run(
        engine,
        [
            Request(prompt=tuple(wanted[0]), max_tokens=60),
            Request(prompt=tuple(wanted[1]), constraint=OneOf(text, vocab)),
        ],
    )
    assert ids(a) == plain_greedy(model, wanted[0], 60) and tuple(ids(b)) == text[0]
    assert max(longest) <= 512


def test_forced_tokens_need_no_logits(full_model):
    model, vocab = full_model
    wanted = prompts(vocab, [7, 5])
    rows = []
    logits = model.logits
    model.logits = lambda x: rows.append(x.shape[1]) or logits(x)
    for batch in (1, 2):
        grammars = [OneOf(texts(vocab, 3 + i, count=4, length=12, shared=9), vocab) for i in range(batch)]
        requests = [Request(prompt=tuple(p), constraint=g) for p, g in zip(wanted, grammars, strict=False)]
        got = run(Engine(model), requests)
        for prompt, grammar, events in zip(wanted, grammars, got, strict=False):
            assert ids(events) == plain_constrained(model, prompt, grammar, 20)
            seen = list(prompt)
            for event in events[:9]:
                expected = logits(model.hidden(mx.array([seen])))[0, -1]
                assert mx.allclose(event.logprobs, expected - mx.logsumexp(expected), atol=1e-4)
                seen.append(event.token)
    assert 8 in rows and 1 in rows  # the forced rows apart, computed because the test asked for them


@pytest.mark.parametrize("count", range(1, 12))
def test_a_limit_cuts_anywhere_and_states_can_be_continued(any_model, count):
    model, vocab = any_model
    (prompt,) = prompts(vocab, [7])
    grammar = OneOf(texts(vocab, 5, length=11, shared=6), vocab)
    full = plain_constrained(model, prompt, grammar, 20)
    engine = Engine(model)
    uid = engine.add(Request(prompt=tuple(prompt), constraint=grammar, max_tokens=count, keep_states=True))
    events = list(engine.run(uid))
    assert ids(events) == full[:count]
    assert events[-1].finish_reason == ("stop" if count == 11 else "length")
    states, seen = engine.take(uid)
    assert seen == prompt + full[:count] and max(s.offset for s in states) == len(seen) - 1
    more = [t for t, _ in generate_step(seen[-1:], model, prompt_cache=states, max_tokens=3)]
    assert more == plain_greedy(model, seen, 3)


def test_end_tokens(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [7])
    end = 3
    words = [t for t in texts(vocab, 8) if end not in t]
    grammar = OneOf([w[:n] for w in words for n in (5, 7)], vocab, end)
    expected = plain_constrained(model, prompt, grammar, 20, stop=(end,))
    ((*events,),) = run(
        Engine(model), [Request(prompt=tuple(prompt), constraint=grammar, stop_tokens=frozenset([end]))]
    )
    assert ids(events) == expected and events[-1].finish_reason == "stop"


def test_processors_come_before_the_mask_and_are_called_once_for_each_token(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [7])
    calls = []

    def against_the_grammar(history, logits):
        calls.append(history.tolist())
        return mx.where(mx.arange(vocab) == 0, 1e9, logits)

    words = [tuple(t % (vocab - 1) + 1 for t in w) for w in texts(vocab, 4)]
    grammar = OneOf(words, vocab)
    out = [t for t, _ in generate_step(prompt, model, constraint=grammar, logits_processors=[against_the_grammar])][:9]
    assert tuple(out) in words
    assert calls == [prompt + out[:i] for i in range(9)]


def test_a_processor_that_drops_the_padding_of_the_vocabulary(full_model):
    model, vocab = full_model
    wanted = prompts(vocab, [7, 4])
    grammar = OneOf([tuple(t % (vocab - 3) for t in w) for w in texts(vocab, 4)], vocab - 3)
    narrow = Request(
        prompt=tuple(wanted[0]), constraint=grammar, logits_processors=(lambda _, x: x[:, : vocab - 3],), max_tokens=20
    )
    wide = Request(prompt=tuple(wanted[1]), constraint=grammar, max_tokens=20)
    got = run(Engine(model), [narrow, wide])
    assert [ids(e) for e in got] == [plain_constrained(model, p, grammar, 20) for p in wanted]


def test_seeded_samples_do_not_depend_on_the_batch(full_model):
    model, vocab = full_model
    wanted = prompts(vocab, [7, 9, 3])
    grammars = [OneOf(texts(vocab, i, count=40, shared=2), vocab) for i in range(3)]

    def request(i):
        return Request(prompt=tuple(wanted[i]), constraint=grammars[i], sampler=make_sampler(temp=2.0, seed=i))

    solo = [ids(run(Engine(model), [request(i)])[0]) for i in range(3)]
    assert [ids(e) for e in run(Engine(model), [request(i) for i in range(3)])] == solo
    assert all(tuple(s) in g.texts for s, g in zip(solo, grammars, strict=True))


def test_a_dead_end_ends_one_request(full_model):
    model, vocab = full_model
    wanted = prompts(vocab, [7, 9])

    class Dead(OneOf):
        def mask(self):
            if len(self.taken) == 2:
                raise GrammarError("too complex")
            return super().mask()

        def copy(self):
            return Dead(self.texts, self.vocab, self.end, self.taken)

        def forced(self):
            return []

    good = OneOf(texts(vocab, 1), vocab)
    dead = Dead(texts(vocab, 2), vocab)
    a, b = run(
        Engine(model), [Request(prompt=tuple(p), constraint=g) for p, g in zip(wanted, (good, dead), strict=True)]
    )
    assert ids(a) == plain_constrained(model, wanted[0], good, 20)
    assert len(b) == 3 and isinstance(b[-1].error, GrammarError) and "complex" in str(b[-1].error)


@pytest.mark.parametrize("kind", ["full", "window", "hybrid", "recurrent"])
def test_prefix_hits(kind):
    model, vocab = tiny(kind, max_position_embeddings=4096)
    (prompt,) = prompts(vocab, [700])
    grammar = OneOf(texts(vocab, 6, length=90, shared=80), vocab)  # forced past a block's end
    expected = ids(run(Engine(model), [Request(prompt=tuple(prompt), constraint=grammar)])[0])
    engine = Engine(model, prefix_cache=PrefixCache(10**9), model_key="m")
    for _ in range(2):
        assert ids(run(engine, [Request(prompt=tuple(prompt), constraint=grammar)])[0]) == expected
    first = 699 if kind == "full" else 512  # states that can be cut anywhere have a tail behind their blocks
    assert engine.stats().reused_tokens == first
    longer = [*prompt, *expected, 1]
    again = run(engine, [Request(prompt=tuple(longer), max_tokens=5)])[0]
    assert engine.stats().reused_tokens == first + (len(longer) - 2 if kind == "full" else 768)
    assert ids(again) == plain_greedy(model, longer, 5)


@pytest.mark.parametrize("start", [0, 12])
def test_packed_caches(start):
    from test_speculation import packable

    model, vocab = packable()
    (prompt,) = prompts(vocab, [7])
    grammar = OneOf(texts(vocab, 6, length=20, shared=9), vocab)
    kv = KVOptions(bits=4, group_size=32, start=start)

    class Unforced(OneOf):
        def forced(self):
            return []

        def copy(self):
            return Unforced(self.texts, self.vocab, self.end, self.taken)

    (forced,) = run(Engine(model), [Request(prompt=tuple(prompt), constraint=grammar, kv=kv)])
    plain = Unforced(grammar.texts, vocab)
    (single,) = run(Engine(model), [Request(prompt=tuple(prompt), constraint=plain, kv=kv)])
    assert ids(forced) == ids(single)


def test_the_batch_generator_takes_constraints(full_model):
    model, vocab = full_model
    wanted = prompts(vocab, [7, 9])
    grammar = OneOf(texts(vocab, 1), vocab)
    generator = BatchGenerator(model, max_tokens=9)
    uids = generator.insert(wanted, constraints=[grammar, None])
    out = {uid: [] for uid in uids}
    while results := generator.next_generated():
        for r in results:
            out[r.uid].append(r.token)
    assert out[uids[0]] == plain_constrained(model, wanted[0], grammar, 20)
    assert out[uids[1]] == plain_greedy(model, wanted[1], 9)
