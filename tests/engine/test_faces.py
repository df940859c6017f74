"""Text generation over the engine: every way to speculate gives the same text, ends, and states that go on."""

import mlx.core as mx
import pytest
from letters import Letters
from scripted import OneOf
from test_speculation import noisy, text_like, with_head
from tiny_models import plain_greedy, prompts

from mlx_lm.engine import NGramSpeculation, batch_generate, generate_step, stream_generate
from mlx_lm.errors import RequestError, UnsupportedError
from mlx_lm.models.cache import make_prompt_cache


def ways(model):
    return {
        "draft": {"draft_model": noisy(model, 0.02), "num_draft_tokens": 4},
        "lookup": {"prompt_lookup_num_tokens": 4, "prompt_lookup_min_match": 1},
        "auto": {"auto_speculative": True, "prompt_lookup_max_matches": 1},
        "any": {"speculation": NGramSpeculation(5, 1, 4)},
    }


@pytest.mark.parametrize("way", ["draft", "lookup", "auto", "any"])
def test_texts_are_the_same(any_model, way):
    model, vocab = any_model
    prompt = text_like(model, vocab, 12)
    expected = plain_greedy(model, prompt, 15)
    out = list(stream_generate(model, Letters(), prompt, max_tokens=15, **ways(model)[way]))
    assert [r.token for r in out] == expected and out[-1].finish_reason == "length"
    assert "".join(r.text for r in out) == Letters().decode(expected)
    end = expected[8]
    cache = make_prompt_cache(model) + (make_prompt_cache(model) if way == "draft" else [])
    stop = Letters().decode(expected[4:6])
    out = list(
        stream_generate(model, Letters(end), prompt, max_tokens=15, stop=stop, prompt_cache=cache, **ways(model)[way])
    )
    text = Letters().decode(expected)
    cut = min(text.find(stop) + 2, text.find(chr(97 + end)) + 1)
    assert [r.token for r in out] == expected[:cut] and out[-1].finish_reason == "stop"
    assert max(s.offset for s in cache) == len(prompt) + cut - 1
    layers = cache[: len(model.layers)]
    more = [t for t, _ in generate_step(expected[cut - 1 : cut], model, prompt_cache=layers, max_tokens=4)]
    assert more == plain_greedy(model, prompt + expected[:cut], 4)


def test_long_prompts_are_routed_to_lookup(full_model):
    from tiny_models import tiny

    model, vocab = tiny("full", max_position_embeddings=4096)
    prompt = text_like(model, vocab, 300)
    out = list(stream_generate(model, Letters(), prompt, max_tokens=40, auto_speculative=True))
    assert [r.token for r in out] == plain_greedy(model, prompt, 40)
    assert any(r.from_draft for r in out)
    assert not any(r.from_draft for r in stream_generate(model, Letters(), prompt[:99], 40, auto_speculative=True))


def test_models_with_a_head_are_routed_to_it():
    model, vocab = with_head()
    prompt = text_like(model, vocab, 12)
    out = list(stream_generate(model, Letters(), prompt, max_tokens=15, auto_speculative=True))
    assert [r.token for r in out] == plain_greedy(model, prompt, 15)


def test_two_ways_at_once_are_refused(full_model):
    model, _ = full_model
    for a, b in (("draft", "lookup"), ("draft", "auto"), ("any", "lookup"), ("auto", "any")):
        with pytest.raises(UnsupportedError, match=r"speculat|draft"):
            list(stream_generate(model, Letters(), "abc", **ways(model)[a], **ways(model)[b]))
    with pytest.raises(RequestError, match="num_tokens"):
        list(stream_generate(model, Letters(), "abc", prompt_lookup_num_tokens=0))


def test_batches_stop_at_strings_in_the_middle_of_a_guess(any_model):
    model, vocab = any_model
    wanted = [text_like(model, vocab, n, n) for n in (9, 14, 5)]
    expected = [plain_greedy(model, p, 14) for p in wanted]
    stop = Letters().decode(expected[0][4:6])
    response = batch_generate(
        model, Letters(), wanted, max_tokens=14, stop=stop, return_token_ids=True, return_prompt_caches=True,
        speculation=NGramSpeculation(5, 1),
    )  # fmt: skip
    for prompt, full, out, text, cache in zip(
        wanted, expected, response.token_ids, response.texts, response.caches, strict=True
    ):
        whole = Letters().decode(full)
        cut = whole.find(stop) + 2 if stop in whole else 14
        assert out == full[:cut] and text == (whole[: cut - 2] if stop in whole else whole)
        assert max(s.offset for s in cache) == len(prompt) + cut - 1
        more = [t for t, _ in generate_step(out[-1:], model, prompt_cache=cache, max_tokens=4)]
        assert more == plain_greedy(model, prompt + out, 4)


def test_history_is_what_processors_see_of_a_cache(full_model):
    model, vocab = full_model
    (prompt,) = prompts(vocab, [11])
    calls = []

    def spy(tokens, logits):
        calls.append(tokens.tolist())
        return logits

    cache = make_prompt_cache(model)
    list(generate_step(prompt[:6], model, prompt_cache=cache, max_tokens=1))
    out = [
        r.token
        for r in stream_generate(
            model, Letters(), prompt[6:], 3, prompt_cache=cache, history=prompt[:6], logits_processors=[spy]
        )
    ]
    assert out == plain_greedy(model, prompt, 3)
    assert calls == [prompt + out[:i] for i in range(3)]
    with pytest.raises(RequestError, match="history"):
        list(generate_step(prompt, model, history=[1]))
    assert list(generate_step(prompt[6:], model, history=mx.array(prompt[:6]), prompt_cache=[], max_tokens=1))


def test_constraints(full_model):
    model, _ = full_model
    words = ["abba", "acid", "bead"]
    grammar = OneOf([Letters().encode(w) for w in words], 32)
    for kwargs in ({}, {"prompt_lookup_num_tokens": 3}, {"draft_model": model}):
        out = list(stream_generate(model, Letters(), "hello", constraint=grammar, **kwargs))
        assert "".join(r.text for r in out) in words and out[-1].finish_reason == "stop"
