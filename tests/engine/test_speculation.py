"""Speculation against plain decoding: equal tokens and log-probabilities, on every kind of state, in every company."""

import random
from itertools import pairwise

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from scripted import OneOf
from tiny_models import MODELS, PACKABLE, WITH_HEAD, plain_greedy, prompts, tiny

from mlx_lm.engine import (
    BatchGenerator,
    DraftSpeculation,
    Engine,
    HeadSpeculation,
    NGramSpeculation,
    PrefixCache,
    Probe,
    Request,
    TokenEvent,
    auto_speculative_generate_step,
    generate_step,
    mtp_generate_step,
    prompt_lookup_generate_step,
    speculative_generate_step,
)
from mlx_lm.engine.speculate.gate import Gate
from mlx_lm.engine.speculate.ngram import NGramDrafter
from mlx_lm.errors import RequestError, UnsupportedError
from mlx_lm.kernels import native
from mlx_lm.models import build_model
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sampling import make_logits_processors, make_sampler
from mlx_lm.state import KVOptions

WAYS = ["ngram", "draft", "noisy", "wrong"]


def packable(**changes):
    """A model whose keys and values can be packed, and its vocabulary's size."""
    mx.random.seed(0)
    return build_model(PACKABLE | changes), 50


def with_head():
    mx.random.seed(0)
    model = build_model(WITH_HEAD)
    model.add_next_token_head({"mtp.layers.0.self_attn.q_proj.weight": mx.zeros(())})
    mx.eval(model.parameters())
    return model, 32


def noisy(model, noise):
    """The model with other weights: guesses that are right sometimes."""
    mx.random.seed(1)
    other = type(model)(model.args)
    other.update(tree_map(lambda w: w + noise * mx.random.normal(w.shape) if w.ndim == 2 else w, model.parameters()))
    return other


def speculation(way, model, width=3):
    if way == "ngram":
        return NGramSpeculation(width, 1, 2)
    return DraftSpeculation(noisy(model, {"draft": 0.0, "noisy": 0.02, "wrong": 5.0}[way]), width)


def run(engine, requests, chance=None):
    """Events of each request; with `chance`, requests come at any time."""
    out, pending = {}, list(requests)
    while pending or not engine.idle:
        while pending and (chance is None or chance.random() < 0.4):
            out[engine.add(pending.pop(0))] = []
        for event in engine.step():
            if isinstance(event, TokenEvent):
                assert event.error is None, event.error
                out[event.uid].append(event)
        engine.check()
    return list(out.values())


def same(events, expected, exact=True):
    """Equal tokens, ends and log-probabilities: to the last bit where kernels compute rows apart."""
    assert [e.token for e in events] == [e.token for e in expected]
    assert events[-1].finish_reason == expected[-1].finish_reason
    ours, theirs = mx.stack([e.logprobs for e in events]), mx.stack([e.logprobs for e in expected])
    if exact and native.extension() is not None:
        assert mx.array_equal(ours, theirs)
    else:
        assert mx.allclose(ours, theirs, atol=1e-4)


def text_like(model, vocab, length, seed=0):
    """A prompt that holds the model's own continuations, so that looking up pays."""
    chance = random.Random(seed)
    start = [chance.randrange(vocab) for _ in range(3)]
    piece = start + plain_greedy(model, start, length // 2)
    return (piece + piece)[:length]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [1, 4])
def test_alone(any_model, way, width):
    model, vocab = any_model
    prompt = tuple(text_like(model, vocab, 14))
    (plain,) = run(Engine(model), [Request(prompt=prompt, max_tokens=17)])
    engine = Engine(model, prefill_step_size=5)
    (events,) = run(
        engine, [Request(prompt=prompt, max_tokens=17, speculation=speculation(way, model, width), keep_states=True)]
    )
    same(events, plain)
    stats = engine.stats()
    assert stats.accepted_tokens == sum(e.from_draft for e in events) <= stats.drafted_tokens
    if way == "draft":  # the same weights are always right
        assert stats.accepted_tokens == stats.drafted_tokens > 0
    states, seen = engine.take(0)
    assert max(s.offset for s in states) == len(seen) - 1
    more = [t for t, _ in generate_step(seen[-1:], model, prompt_cache=states, max_tokens=4)]
    assert more == plain_greedy(model, seen, 4)


def test_in_company_of_any_kind(any_model):
    model, vocab = any_model
    chance = random.Random(7)
    requests = []
    for seed, way in enumerate([*WAYS, None, *WAYS, None]):
        kwargs = {"max_tokens": chance.randrange(1, 16)}
        if way is not None:
            kwargs["speculation"] = speculation(way, model, chance.randrange(1, 5))
        if seed % 3 == 1:
            kwargs["sampler"] = lambda seed=seed: make_sampler(temp=1.5, seed=seed)
        if seed % 4 == 2:
            kwargs["logits_processors"] = tuple(make_logits_processors(repetition_penalty=1.3))
        requests.append((tuple(text_like(model, vocab, chance.randrange(2, 20), seed)), kwargs))

    def made(prompt, kwargs, **changes):
        sampler = kwargs.get("sampler")
        return Request(prompt=prompt, **kwargs | ({"sampler": sampler()} if sampler else {}) | changes)

    plain = [run(Engine(model), [made(p, k, speculation=None)])[0] for p, k in requests]
    for look_ahead in (False, True):
        engine = Engine(model, max_batch=5, prefill_step_size=7, look_ahead=look_ahead)
        for events, expected in zip(run(engine, [made(p, k) for p, k in requests], chance), plain, strict=True):
            # MLX's own batched matmul of absorbed latents adds up in another order from five rows on.
            same(events, expected, exact="kv_lora_rank" not in vars(model.args))


@pytest.mark.parametrize("way", WAYS)
def test_stops_in_the_middle_of_a_guess(any_model, way):
    model, vocab = any_model
    prompt = tuple(text_like(model, vocab, 9))
    full = plain_greedy(model, prompt, 12)
    for end in sorted({full.index(t) for t in full}):
        engine = Engine(model)
        chosen = speculation(way, model, 5)
        stop = {"stop_tokens": frozenset([full[end]])} if end % 2 else {"stop_sequences": ((full[end],),)}
        uid = engine.add(Request(prompt=prompt, speculation=chosen, keep_states=True, **stop))
        assert [e.token for e in engine.run(uid)] == full[: end + 1]
        states, seen = engine.take(uid)
        assert max(s.offset for s in states) == len(seen) - 1 == len(prompt) + end
        more = [t for t, _ in generate_step(seen[-1:], model, prompt_cache=states, max_tokens=3)]
        assert more == plain_greedy(model, seen, 3)


@pytest.mark.parametrize("way", WAYS)
def test_processors_see_every_token_once_and_in_order(any_model, way):
    model, vocab = any_model
    prompt = text_like(model, vocab, 9)
    calls = []

    def spy(history, logits):
        assert history.ndim == 1 and logits.shape == (1, vocab)
        calls.append(history.tolist())
        return logits

    request = Request(
        prompt=tuple(prompt), max_tokens=11, logits_processors=(spy,), speculation=speculation(way, model, 4)
    )
    (events,) = run(Engine(model), [request])
    out = [e.token for e in events]
    assert calls == [prompt + out[:i] for i in range(11)]


@pytest.mark.parametrize("way", WAYS)
def test_under_a_grammar(any_model, way):
    model, vocab = any_model
    chance = random.Random(1)
    begin = [chance.randrange(vocab) for _ in range(3)]
    tails = [[chance.randrange(vocab) for _ in range(8)] for _ in range(12)]
    # Choices at many places, and forced runs.
    words = [(*begin, *a[:4], *b[4:]) for a, b in pairwise(tails)] + [(*begin, *a) for a in tails]
    prompts_ = [tuple(text_like(model, vocab, 12, s) + begin + list(words[s][3:9])) for s in range(3)]
    grammar = OneOf(words, vocab)
    plain = [run(Engine(model), [Request(prompt=p, constraint=grammar)])[0] for p in prompts_]
    requests = [Request(prompt=p, constraint=grammar, speculation=speculation(way, model, 4)) for p in prompts_]
    for events, expected in zip(run(Engine(model), requests), plain, strict=True):
        assert [e.token for e in events] == [e.token for e in expected]
        assert events[-1].finish_reason == "stop" and tuple(e.token for e in events) in words
    assert not grammar.taken


@pytest.mark.parametrize("way", WAYS[:3])
@pytest.mark.parametrize("start", [0, 13, 20])
@pytest.mark.parametrize("kind", ["full", "window", "hybrid"])
def test_packed_caches(way, start, kind):
    window = {"model_type": "mistral", "sliding_window": 12}
    model, vocab = packable(**{"full": {}, "window": window, "hybrid": WITH_HEAD | {"head_dim": 32}}[kind])
    vocab = model.args.vocab_size
    kv = KVOptions(bits=4, group_size=32, start=start)
    wanted = [tuple(text_like(model, vocab, n, n)) for n in (9, 16)]
    plain = [run(Engine(model), [Request(prompt=p, max_tokens=25, kv=kv)])[0] for p in wanted]
    requests = [Request(prompt=p, max_tokens=25, kv=kv, speculation=speculation(way, model, 4)) for p in wanted]
    for events, expected in zip(run(Engine(model), requests), plain, strict=True):
        same(events, expected)


@pytest.mark.parametrize(("kind", "way"), [("hybrid", "noisy"), *((kind, "ngram") for kind in MODELS)])
def test_prefix_hits(kind, way):
    model, vocab = tiny(kind, max_position_embeddings=4096)
    prompt = tuple(prompts(vocab, [520])[0])
    (plain,) = run(Engine(model), [Request(prompt=prompt, max_tokens=300)])
    out = [e.token for e in plain]
    engine = Engine(model, prefix_cache=PrefixCache(10**9), model_key="m")
    chosen = speculation(way, model, 4)
    for _ in range(2):
        (events,) = run(engine, [Request(prompt=prompt, max_tokens=300, speculation=chosen)])
        assert [e.token for e in events] == out
    cut = kind in ("full", "latent")  # such states have a tail behind their blocks
    assert engine.stats().reused_tokens == (519 if cut else 512)
    # The answer was kept at a block's end, although steps give out several tokens.
    (events,) = run(engine, [Request(prompt=(*prompt, *out, 1), max_tokens=5, speculation=chosen)])
    assert engine.stats().reused_tokens == (519 + 819 if cut else 512 + 768)
    assert [e.token for e in events] == plain_greedy(model, [*prompt, *out, 1], 5)


def test_a_budget_counts_the_draft_model(full_model):
    from mlx_lm.engine.model_states import predict

    model, _ = full_model
    one = predict(model, 40, KVOptions())
    engine = Engine(model, memory_budget=2 * one)
    uid = engine.add(Request(prompt=(1,) * 20, max_tokens=20, speculation=DraftSpeculation(model)))
    engine.step()
    assert engine.stats().reserved_bytes == 2 * one
    assert len([e for e in engine.run(uid)]) >= 18
    engine.check()
    assert engine.stats().reserved_bytes == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_a_next_token_head(depth):
    model, vocab = with_head()
    wanted = [tuple(text_like(model, vocab, n, n)) for n in (2, 9, 20)]
    plain = [run(Engine(model), [Request(prompt=p, max_tokens=20)])[0] for p in wanted]
    requests = [Request(prompt=p, max_tokens=20, speculation=HeadSpeculation(depth)) for p in wanted]
    engine = Engine(model, prefill_step_size=4)
    for events, expected in zip(run(engine, requests), plain, strict=True):
        same(events, expected)
    assert engine.stats().drafted_tokens > 0


def test_a_head_that_rests_takes_in_what_it_missed():
    model, vocab = with_head()
    prompt = tuple(text_like(model, vocab, 9))
    (plain,) = run(Engine(model), [Request(prompt=prompt, max_tokens=120)])
    engine = Engine(model)
    uid = engine.add(Request(prompt=prompt, max_tokens=120, speculation=HeadSpeculation(1, Probe(4, 1.0, rest=70))))
    events, most = [], 0
    while not engine.idle:
        if uid in engine.live and engine._live[uid].sequence.drafter is not None:
            most = max(most, len(engine._live[uid].sequence.drafter._waiting))
        events += [e for e in engine.step() if isinstance(e, TokenEvent)]
    same(events, plain)
    assert 30 <= most <= 32


def test_a_head_that_is_right_is_always_accepted():
    model, vocab = with_head()
    prompt = tuple(text_like(model, vocab, 9))
    out = plain_greedy(model, prompt, 40)
    text = [*prompt, *out]
    heard = []

    def oracle(hidden, tokens, cache=None):
        heard.extend(tokens[0].tolist())
        at = len(heard)  # the tokens but the first come here one after the other
        return mx.full((1, hidden.shape[1], 32), text[at + 1] if at + 1 < len(text) else 0, mx.float32)

    def logits_or_the_oracles(hidden):
        named = hidden[..., :1]
        if hidden.shape[1] == 1 and bool((hidden == named).all()):
            return mx.where(mx.arange(vocab) == named, 1.0, 0.0)
        return logits(hidden)

    logits, model.draft, model.logits = model.logits, oracle, logits_or_the_oracles
    engine = Engine(model)
    (events,) = run(engine, [Request(prompt=prompt, max_tokens=21, speculation=HeadSpeculation())])
    assert [e.token for e in events] == out[:21]
    assert heard == text[1 : len(heard) + 1]
    assert engine.stats().accepted_tokens == engine.stats().drafted_tokens == 10


def test_models_without_a_head_and_other_vocabularies_are_refused(full_model):
    model, _ = full_model
    with pytest.raises(UnsupportedError, match="head"):
        Engine(model).add(Request(prompt=(1,), speculation=HeadSpeculation()))
    other, _ = tiny("full")
    other.args.vocab_size += 1
    with pytest.raises(UnsupportedError, match="tokenizer"):
        Engine(model).add(Request(prompt=(1,), speculation=DraftSpeculation(other)))
    for bad in ({"num_tokens": 0}, {"min_match": 0}, {"min_match": 3, "max_match": 2}):
        with pytest.raises(RequestError):
            NGramSpeculation(**bad)


def test_a_drafter_that_fails_ends_one_request(full_model):
    model, vocab = full_model
    a, b = prompts(vocab, [5, 6])
    draft = noisy(model, 0.0)
    engine = Engine(model)
    fine = engine.add(Request(prompt=tuple(a), max_tokens=9))
    bad = engine.add(Request(prompt=tuple(b), max_tokens=9, speculation=DraftSpeculation(draft)))
    out, errors = [], []
    for step in range(100):
        if step == 3:

            def explode(*_):
                raise RuntimeError("boom")

            engine._live[bad].sequence.drafter._hidden = explode
        for e in engine.step():
            if isinstance(e, TokenEvent):
                (errors if e.error is not None else out).append(e)
    assert [e.token for e in out if e.uid == fine] == plain_greedy(model, a, 9)
    assert len(errors) == 1 and errors[0].uid == bad and "boom" in str(errors[0].error)


# The faces.


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("way", ["draft", "noisy", "lookup", "auto"])
def test_wherever_a_consumer_stops_the_states_hold_all_but_the_last_token(any_model, way, cut):
    model, vocab = any_model
    prompt = text_like(model, vocab, 9)
    expected = plain_greedy(model, prompt, 15)
    layers = len(model.layers)
    draft = noisy(model, 0.0 if way == "draft" else 0.02)
    for limit in (cut, 15):  # the answer's own end, or the consumer's
        cache = make_prompt_cache(model)
        if way in ("draft", "noisy"):
            cache += make_prompt_cache(draft)
            steps = speculative_generate_step(
                prompt, model, draft, num_draft_tokens=4, prompt_cache=cache, max_tokens=limit
            )
        elif way == "lookup":
            steps = prompt_lookup_generate_step(
                prompt, model, prompt_lookup_num_tokens=4, prompt_lookup_min_match=1, prompt_cache=cache
            )
        else:
            steps = auto_speculative_generate_step(prompt, model, prompt_cache=cache)
        out = [next(steps)[0] for _ in range(cut)]
        steps.close()
        assert out == expected[:cut]
        parts = (cache[:layers], cache[layers:]) if len(cache) > layers else (cache,)
        assert {max(s.offset for s in part) for part in parts} == {len(prompt) + cut - 1}
        more = [t for t, _ in generate_step(out[-1:], model, prompt_cache=cache[:layers], max_tokens=4)]
        assert more == plain_greedy(model, prompt + out, 4)


def test_a_draft_models_cache_is_carried_on(any_model):
    model, vocab = any_model
    draft = noisy(model, 0.02)
    prompt = text_like(model, vocab, 9)
    cache = make_prompt_cache(model) + make_prompt_cache(draft)
    out = [t for t, _, _ in speculative_generate_step(prompt, model, draft, max_tokens=7, prompt_cache=cache)]
    layers = len(model.layers)
    assert {max(s.offset for s in part) for part in (cache[:layers], cache[layers:])} == {len(prompt) + 6}
    more = [t for t, _, _ in speculative_generate_step(out[-1:], model, draft, max_tokens=7, prompt_cache=cache)]
    assert out + more == plain_greedy(model, prompt, 14)
    with pytest.raises(UnsupportedError, match="draft model"):
        list(speculative_generate_step([1], model, draft, prompt_cache=cache[:layers]))


def test_head_generator():
    model, vocab = with_head()
    prompt = text_like(model, vocab, 9)
    assert [t for t, _, _ in mtp_generate_step(prompt, model, max_tokens=9)] == plain_greedy(model, prompt, 9)
    assert [t for t, _, _ in auto_speculative_generate_step(prompt, model, max_tokens=9)] == plain_greedy(
        model, prompt, 9
    )


def test_the_batch_generator_speculates(any_model):
    model, vocab = any_model
    wanted = [text_like(model, vocab, n, n) for n in (4, 9, 13)]
    generator = BatchGenerator(model, max_tokens=12, speculation=NGramSpeculation(4, 1))
    uids = generator.insert(wanted)
    out = {uid: [] for uid in uids}
    while results := generator.next_generated():
        for r in results:
            out[r.uid].append(r.token)
    assert [out[u] for u in uids] == [plain_greedy(model, p, 12) for p in wanted]


def test_the_generators_take_the_same_options():
    model, _ = packable()
    headed = build_model(WITH_HEAD | {"head_dim": 32, "vocab_size": 50})
    headed.add_next_token_head({"mtp.layers.0.self_attn.q_proj.weight": mx.zeros(())})
    options = {"max_tokens": 4, "kv_bits": 8, "kv_group_size": 32, "prefill_step_size": 16}
    makers = {
        mtp_generate_step: (headed,),
        speculative_generate_step: (model, model),
        prompt_lookup_generate_step: (model,),
        auto_speculative_generate_step: (model,),
    }
    for make, models in makers.items():
        plain = [int(token) for token, _ in generate_step([1, 2, 3], models[0], **options)]
        assert [t for t, _, _ in make([1, 2, 3], *models, **options)] == plain and len(plain) == 4
        assert len(list(make([1, 2, 3], *models))) == 256
        with pytest.raises(TypeError, match="zebra"):
            make([1], *models, zebra=1)
        with pytest.raises(RequestError, match="kv_bits"):
            make([1], *models, kv_bits=7)


# Pure parts.


def lookup(tokens, count=4, forced=(), sizes=(2, 3)):
    return NGramDrafter(tokens, 10, *sizes).propose(forced, count, lambda _: None)


def test_lookup():
    assert lookup([1, 2, 3, 4, 5, 6, 9, 2, 3]) == [4, 5, 6, 9]
    assert lookup([7, 2, 3, 4, 8, 2, 3, 5, 8, 2, 3]) == [5, 8, 2, 3]  # the latest of the longest: 8, 2, 3
    assert lookup([1, 2, 3]) == [] == lookup([1]) == lookup([])
    assert lookup([1, 2, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]  # goes round
    assert lookup([1, 2, 3, 4, 9], forced=[2, 3]) == [4, 9, 2, 3]
    drafter = NGramDrafter([1, 2, 3, 4], 2, 2, None)
    assert drafter.propose([], 9, lambda _: None) == []
    drafter.tokens += [1, 2]
    assert drafter.propose([], 9, lambda _: None) == [3, 4]


def test_a_gate_rests_where_guesses_are_wrong_and_tries_again():
    gate = Gate(Probe(tokens=4, threshold=0.5, rest=8), 10)
    for _ in range(4):
        assert gate.open
        gate.step(1, 3, 0)
    rests = 0
    while not gate.open:
        gate.step(1, 0, 0)
        rests += 1
    assert rests == 8
    gate.step(4, 3, 3)
    assert gate.open  # right guesses go on
    for _ in range(4):
        gate.step(1, 3, 0)
    rests = 0
    while not gate.open:
        gate.step(1, 0, 0)
        rests += 1
    assert rests == 16
    assert not Gate(Probe(min_prompt=100), 99).open and Gate(None, 0).open
    quiet = Gate(Probe(tokens=4), 10)
    for _ in range(50):
        quiet.step(1, 0, 0)  # no guesses, nothing to judge
    assert quiet.open
