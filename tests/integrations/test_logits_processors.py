"""What other libraries' logits processors are called with: the convention that Outlines and its kind rely on.

`processor(tokens, logits)`: tokens is the 1-D history with the whole prompt, an integer MLX array; logits is (1, V) in
the model's dtype; one call for each emitted token, in order, which sees the token sampled before it.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import pytest
from tiny_models import prompts, tiny

from mlx_lm import batch_generate, generate, generate_step, stream_generate
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler


@dataclass
class Recorder:
    """Checks and remembers its calls; `shift` moves the choice, more with each step, so that each call shows."""

    shift: int = 0
    dtype: mx.Dtype = mx.float32
    histories: list[list[int]] = field(default_factory=list)
    token_dtypes: set[mx.Dtype] = field(default_factory=set)

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        assert isinstance(tokens, mx.array) and tokens.ndim == 1
        assert logits.ndim == 2 and logits.shape[0] == 1 and logits.dtype == self.dtype
        self.histories.append([int(t) for t in tokens.tolist()])  # type: ignore[union-attr]
        self.token_dtypes.add(tokens.dtype)
        return mx.roll(logits, self.shift * tokens.size, axis=-1)

    def check(self, prompt: list[int], emitted: list[int]) -> None:
        assert self.histories == [prompt + emitted[:n] for n in range(len(emitted))]
        assert self.token_dtypes <= {mx.int32, mx.int64, mx.uint32}


class PlainTokenizer:
    """Each token is one letter; nothing ends a text unless `eos` says so."""

    bos_token = None
    chat_template = None

    def __init__(self, eos: int | None = None) -> None:
        self.eos_token_id = eos
        self.all_special_tokens: list[str] = []

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(c) - 97 for c in text]

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(chr(97 + int(i) % 26) for i in ([ids] if isinstance(ids, int) else ids))

    def get_vocab(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize("kind", ["full", "recurrent"])
@pytest.mark.parametrize("sampled", [False, True])
def test_generate_step(kind: str, sampled: bool) -> None:
    model, vocabulary = tiny(kind)
    prompt = prompts(vocabulary, [9])[0]
    recorder = Recorder(shift=3)
    sampler = make_sampler(1.0) if sampled else None
    steps = generate_step(
        mx.array(prompt), model, max_tokens=7, sampler=sampler, logits_processors=[recorder], prefill_step_size=4
    )
    emitted = [token for token, _ in steps]
    recorder.check(prompt, emitted)


def test_all_processors_are_called_in_their_order() -> None:
    model, vocabulary = tiny("full")
    prompt = prompts(vocabulary, [5])[0]
    order: list[int] = []

    def step(index: int) -> Any:
        return lambda tokens, logits: order.append(index) or logits + index

    emitted = list(generate_step(mx.array(prompt), model, max_tokens=4, logits_processors=[step(0), step(1), step(2)]))
    assert order == [0, 1, 2] * len(emitted)


def test_a_token_is_seen_before_the_next_is_chosen() -> None:
    """The last token of the history is the sampled one, though the processor changed what the model preferred."""
    model, vocabulary = tiny("full")
    prompt = prompts(vocabulary, [5])[0]

    def successor(tokens: mx.array, logits: mx.array) -> mx.array:
        wanted = (int(tokens[-1].item()) + 1) % vocabulary
        return mx.where(mx.arange(vocabulary) == wanted, logits, -mx.inf)

    emitted = [t for t, _ in generate_step(mx.array(prompt), model, max_tokens=6, logits_processors=[successor])]
    assert emitted == [(prompt[-1] + 1 + n) % vocabulary for n in range(6)]


def test_text_of_generate_and_stream_generate() -> None:
    model, vocabulary = tiny("full")
    prompt = prompts(vocabulary, [6])[0]
    streamed, whole = Recorder(shift=1), Recorder(shift=1)
    tokenizer: Any = PlainTokenizer()
    responses = list(stream_generate(model, tokenizer, prompt, max_tokens=5, logits_processors=[streamed]))
    streamed.check(prompt, [r.token for r in responses])
    text = generate(model, tokenizer, prompt, max_tokens=5, logits_processors=[whole])
    assert text == "".join(r.text for r in responses)
    assert whole.histories == streamed.histories


def test_no_call_after_the_end_token() -> None:
    model, vocabulary = tiny("full")
    prompt = prompts(vocabulary, [6])[0]
    plain = [t for t, _ in generate_step(mx.array(prompt), model, max_tokens=4, logits_processors=[Recorder(shift=1)])]
    end = next(i for i in range(1, 4) if plain[i] not in plain[:i])
    recorder = Recorder(shift=1)
    tokenizer: Any = PlainTokenizer(eos=plain[end])
    responses = list(stream_generate(model, tokenizer, prompt, max_tokens=20, logits_processors=[recorder]))
    assert responses[-1].finish_reason == "stop"
    recorder.check(prompt, plain[: end + 1])


def test_leaving_a_stream_early_makes_no_more_than_one_call_ahead() -> None:
    model, vocabulary = tiny("full")
    prompt = prompts(vocabulary, [6])[0]
    recorder = Recorder()
    steps = generate_step(mx.array(prompt), model, max_tokens=50, logits_processors=[recorder])
    emitted = [next(steps)[0] for _ in range(3)]
    steps.close()
    assert len(recorder.histories) in (3, 4)
    assert recorder.histories[2] == prompt + emitted[:2]


def test_with_a_prompt_cache_the_history_is_this_calls_prompt() -> None:
    model, vocabulary = tiny("full")
    prompt, more = prompts(vocabulary, [8, 4])
    cache = make_prompt_cache(model)
    first, second = Recorder(), Recorder()
    head = [
        t
        for t, _ in generate_step(mx.array(prompt), model, max_tokens=3, prompt_cache=cache, logits_processors=[first])
    ]
    first.check(prompt, head)
    tail = [
        t for t, _ in generate_step(mx.array(more), model, max_tokens=3, prompt_cache=cache, logits_processors=[second])
    ]
    second.check(more, tail)


def test_half_precision_logits_keep_their_dtype() -> None:
    model, vocabulary = tiny("full")
    model.set_dtype(mx.float16)
    prompt = prompts(vocabulary, [5])[0]
    recorder = Recorder(dtype=mx.float16)
    emitted = [t for t, _ in generate_step(mx.array(prompt), model, max_tokens=3, logits_processors=[recorder])]
    recorder.check(prompt, emitted)


@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_own_processors_in_a_batch(kind: str) -> None:
    """Each sequence's processor sees its own history alone, while others join and leave."""
    model, vocabulary = tiny(kind)
    many = prompts(vocabulary, [7, 3, 11, 5])
    limits = [6, 2, 4, 5]
    recorders = [Recorder(shift=n) for n in range(4)]
    generator = BatchGenerator(model, completion_batch_size=3, prefill_step_size=4)
    uids = generator.insert(many, limits, logits_processors=[[r] for r in recorders])
    emitted: dict[int, list[int]] = {uid: [] for uid in uids}
    while results := generator.next_generated():
        for result in results:
            emitted[result.uid].append(result.token)
    for uid, prompt, limit, recorder in zip(uids, many, limits, recorders, strict=True):
        assert len(emitted[uid]) == limit
        recorder.check(prompt, emitted[uid])
        alone = Recorder(shift=recorder.shift)
        solo = generate_step(mx.array(prompt), model, max_tokens=limit, logits_processors=[alone])
        assert [t for t, _ in solo] == emitted[uid]


def test_history_of_a_batch_with_caches() -> None:
    model, vocabulary = tiny("full")
    prompt, more = prompts(vocabulary, [8, 4])
    cache = make_prompt_cache(model)
    model(mx.array([prompt]), cache=cache)
    recorder = Recorder()
    generator = BatchGenerator(model)
    generator.insert([more], [3], caches=[cache], all_tokens=[prompt], logits_processors=[[recorder]])
    emitted: list[int] = []
    while results := generator.next_generated():
        emitted += [r.token for r in results]
    recorder.check(prompt + more, emitted)


def test_batch_generate_shares_its_processors() -> None:
    model, vocabulary = tiny("full")
    many = prompts(vocabulary, [6, 4])
    recorder = Recorder(shift=2)
    tokenizer: Any = PlainTokenizer()
    response = batch_generate(model, tokenizer, many, max_tokens=4, return_token_ids=True, logits_processors=[recorder])
    assert response.token_ids is not None
    for prompt, ids in zip(many, response.token_ids, strict=True):
        own = [h for h in recorder.histories if h[: len(prompt)] == prompt]
        assert own == [prompt + ids[:n] for n in range(len(ids))]


@pytest.mark.parametrize("how", ["draft_model", "prompt_lookup_num_tokens", "auto_speculative"])
@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_speculation_calls_it_once_for_each_emitted_token_in_order(how: str, kind: str) -> None:
    model, vocabulary = tiny(kind)
    guess: dict[str, Any] = {"draft_model": tiny("full")[0], "prompt_lookup_num_tokens": 4, "auto_speculative": True}
    if vocabulary != tiny("full")[1] and how == "draft_model":
        pytest.skip("the draft model has another vocabulary")
    prompt = prompts(vocabulary, [6])[0] * 3

    def repeat(tokens: mx.array, logits: mx.array) -> mx.array:
        """Writes the prompt again and again, so that guesses are right."""
        wanted = prompt[tokens.size % len(prompt)] if tokens.size % 7 else 1
        return mx.where(mx.arange(logits.shape[-1]) == wanted, logits + 1000, logits)

    recorder, plain = Recorder(), Recorder()
    tokenizer: Any = PlainTokenizer()
    options: dict[str, Any] = {"max_tokens": 16}
    responses = list(
        stream_generate(model, tokenizer, prompt, logits_processors=[recorder, repeat], **options, **{how: guess[how]})
    )
    expected = list(stream_generate(model, tokenizer, prompt, logits_processors=[plain, repeat], **options))
    assert [r.token for r in responses] == [r.token for r in expected]
    recorder.check(prompt, [r.token for r in responses])
