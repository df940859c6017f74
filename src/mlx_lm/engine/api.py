"""The Python API: one sequence after another through the engine, on the calling thread.

`generate` and `stream_generate` give text, `generate_step` gives tokens.
"""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import RequestError, UnsupportedError
from ..grammar import Constraint
from ..sampling import LogitsProcessor, Sampler, greedy_sampler
from ..state import KVOptions, State
from ..tokenizer import TokenizerWrapper
from ..types import GenerationResponse
from .engine import Engine
from .kv import apply_kv_options, kv_options
from .model_states import new_states
from .request import Request, TokenEvent
from .speculate import NGramSpeculation, Speculation
from .text import TextStream, check_stop_strings

__all__ = [
    "encode_prompt",
    "generate",
    "generate_step",
    "make_request",
    "stream_generate",
    "token_events",
    "token_ids",
    "wrap_tokenizer",
]


def wrap_tokenizer(tokenizer: Any) -> TokenizerWrapper:
    """The tokenizer as a `TokenizerWrapper`; a bare Hugging Face tokenizer is wrapped."""
    return tokenizer if isinstance(tokenizer, TokenizerWrapper) else TokenizerWrapper(tokenizer)


def encode_prompt(tokenizer: TokenizerWrapper, prompt: str | Sequence[int] | mx.array) -> list[int]:
    """Token ids of a prompt; a text gets special tokens unless it begins with the beginning-of-text token already."""
    if isinstance(prompt, str):
        bos = tokenizer.bos_token
        return list(tokenizer.encode(prompt, add_special_tokens=bos is None or not prompt.startswith(bos)))
    return token_ids(prompt)


def token_ids(prompt: Sequence[int] | mx.array) -> list[int]:
    """A flat list of ids; RequestError for anything else."""
    ids = prompt.tolist() if isinstance(prompt, mx.array) else list(prompt)
    if not isinstance(ids, list) or not all(isinstance(t, int) and not isinstance(t, bool) for t in ids):
        raise RequestError("A prompt must be a text or a flat list of token ids.")
    return ids  # type: ignore[return-value]


def generate_step(
    prompt: mx.array | Sequence[int],
    model: nn.Module,
    *,
    max_tokens: int | None = None,
    sampler: Sampler | None = None,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    max_kv_size: int | None = None,
    prompt_cache: list[State] | None = None,
    prefill_step_size: int = 2048,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 0,
    prompt_progress_callback: Callable[[int, int], object] | None = None,
    input_embeddings: mx.array | None = None,
    history: Sequence[int] | mx.array | None = None,
    constraint: Constraint | None = None,
    stream: Any = None,
) -> Generator[tuple[int, mx.array], None, None]:
    """Tokens that follow `prompt`, with their log-probabilities (V,).

    Args:
        prompt: token ids (n,).
        max_tokens: None or -1 runs to the end of the context; end tokens are the caller's business.
        prompt_cache: states from `make_prompt_cache`, moved forward in place; `prompt` is what follows them.
        max_kv_size: at most this many tokens are kept, the first 4 always.
        kv_bits: pack keys and values once more than `quantized_kv_start` tokens are in.
        prompt_progress_callback: called with (tokens done, tokens in all).
        input_embeddings: (n, D) used in place of the prompt's embeddings.
        history: the tokens that `prompt_cache` holds, so that logits processors see them before the prompt.
        constraint: where the answer stands in a grammar; a copy is moved on.
        stream: an MLX stream to compute on; None is the thread's own.

    Raises:
        RequestError: an argument is out of range.
        ContextLengthError: the prompt does not fit the model's context.
    """
    request = make_request(
        token_ids(prompt), model, max_tokens=max_tokens, sampler=sampler, logits_processors=logits_processors,
        prompt_cache=prompt_cache, progress=prompt_progress_callback, input_embeddings=input_embeddings,
        options=kv_options(kv_bits, kv_group_size, quantized_kv_start, max_kv_size), history=history,
        constraint=constraint,
    )  # fmt: skip
    for event in token_events(model, request, prefill_step_size, stream):
        assert event.logprobs is not None
        yield event.token, event.logprobs


def stream_generate(
    model: nn.Module,
    tokenizer: Any,
    prompt: str | mx.array | Sequence[int],
    max_tokens: int | None = None,
    draft_model: nn.Module | None = None,
    *,
    stop: str | Sequence[str] | None = None,
    output_type: Any = None,
    close_within_budget: bool = False,
    after_thinking: bool | None = None,
    sampler: Sampler | None = None,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    max_kv_size: int | None = None,
    prompt_cache: list[State] | None = None,
    prefill_step_size: int = 2048,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 0,
    prompt_progress_callback: Callable[[int, int], object] | None = None,
    input_embeddings: mx.array | None = None,
    history: Sequence[int] | mx.array | None = None,
    constraint: Constraint | None = None,
    speculation: Speculation | None = None,
    num_draft_tokens: int = 3,
    prompt_lookup_num_tokens: int | None = None,
    prompt_lookup_min_match: int = 3,
    prompt_lookup_max_matches: int = 2,
    auto_speculative: bool = False,
    auto_spec_probe_tokens: int = 16,
    auto_spec_probe_threshold: float = 0.30,
    stream: Any = None,
) -> Generator[GenerationResponse, None, None]:
    """Text that follows `prompt`, token by token; arguments as `generate_step`.

    Args:
        max_tokens: None or -1 is no limit: the end of the answer or of the context.
        stop: strings that end the text; they are not part of it.
        output_type: what the answer has to be: JsonSchema, Regex, Choice, CFG, a dict (a JSON Schema), a Python type or
            a function's signature; `parse_output` reads the text as a value.
        close_within_budget: completes the structure within `max_tokens`.
        after_thinking: the structure begins after the model's reasoning; None: where the model reasons. See
            `structured.answer_constraint`.
        draft_model: guesses `num_draft_tokens` tokens at a time, which the model checks in one step.
        prompt_lookup_num_tokens: guesses that many tokens from what followed the last `prompt_lookup_min_match` tokens
            before.
        auto_speculative: guesses as the model and the text allow, as long as it pays: the next-token head where there
            is one, else prompt lookup of `prompt_lookup_num_tokens` (8) tokens after a match of at most
            `prompt_lookup_max_matches`. Judged every `auto_spec_probe_tokens` tokens by the share of right guesses.
        speculation: any other way to guess. With every one of them the text is the same as without.

    Raises:
        RequestError, ContextLengthError: as `generate_step`.
        GrammarError: the output type is malformed or asks for what cannot be enforced.
        UnsupportedError: two kinds of speculation at once, or one that this model cannot have.
    """
    wrapped = wrap_tokenizer(tokenizer)
    stops = check_stop_strings(stop)
    tokens = encode_prompt(wrapped, prompt)
    chosen = [
        name
        for name, given in (
            ("draft_model", draft_model is not None),
            ("speculation", speculation is not None),
            ("auto_speculative", auto_speculative),
            ("prompt_lookup_num_tokens", prompt_lookup_num_tokens is not None and not auto_speculative),
        )
        if given
    ]
    if len(chosen) > 1:
        raise UnsupportedError(f"{' and '.join(chosen)} cannot be combined: choose one way to speculate.")
    if draft_model is not None:
        from .speculate.steps import draft_speculation

        prompt_cache, speculation = draft_speculation(model, draft_model, num_draft_tokens, prompt_cache)
    elif auto_speculative:
        from .speculate.steps import auto_speculation

        speculation = auto_speculation(
            model,
            prompt_lookup_num_tokens,
            prompt_lookup_max_matches,
            auto_spec_probe_tokens,
            auto_spec_probe_threshold,
        )
    elif prompt_lookup_num_tokens is not None:
        speculation = NGramSpeculation(prompt_lookup_num_tokens, prompt_lookup_min_match)
    if output_type is not None:
        if constraint is not None:
            raise RequestError("output_type and constraint cannot be combined: both say what the answer has to be.")
        limit = None if max_tokens == -1 else max_tokens
        from .structured import answer_constraint  # grammars are imported when one is asked for

        constraint = answer_constraint(
            output_type, wrapped, tokens, max_tokens=limit, close_within_budget=close_within_budget,
            after_thinking=after_thinking,
        )  # fmt: skip
    elif close_within_budget or after_thinking is not None:
        raise RequestError("close_within_budget and after_thinking need an output_type.")
    request = make_request(
        tokens, model, max_tokens=max_tokens, sampler=sampler, logits_processors=logits_processors,
        prompt_cache=prompt_cache, progress=prompt_progress_callback, input_embeddings=input_embeddings,
        options=kv_options(kv_bits, kv_group_size, quantized_kv_start, max_kv_size), history=history,
        constraint=constraint, speculation=speculation, stop_tokens=frozenset(wrapped.eos_token_ids),
    )  # fmt: skip
    events = token_events(model, request, prefill_step_size, stream)
    yield from _responses(events, TextStream(wrapped.detokenizer, stops), request)


def generate(
    model: nn.Module, tokenizer: Any, prompt: str | mx.array | Sequence[int], verbose: bool = False, **kwargs: Any
) -> str:
    """The whole text that follows `prompt`; keyword arguments as `stream_generate`.

    With `verbose` the text is printed as it comes, and counts and speeds go to stderr.
    """
    text, response = "", None
    for response in stream_generate(model, tokenizer, prompt, **kwargs):
        text += response.text
        if verbose:
            print(response.text, end="", flush=True)
    if verbose and response is not None:
        print(flush=True)
        print(
            f"Prompt: {response.prompt_tokens} tokens, {response.prompt_tps:.1f} tokens/s\n"
            f"Generation: {response.generation_tokens} tokens, {response.generation_tps:.1f} tokens/s\n"
            f"Peak memory: {response.peak_memory:.3f} GB",
            file=sys.stderr,
        )
    return text


def make_request(
    tokens: list[int],
    model: nn.Module,
    *,
    max_tokens: int | None,
    options: KVOptions,
    sampler: Sampler | None = None,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    prompt_cache: list[State] | None = None,
    history: Sequence[int] | mx.array | None = None,
    progress: Callable[[int, int], object] | None = None,
    input_embeddings: mx.array | None = None,
    constraint: Constraint | None = None,
    speculation: Speculation | None = None,
    stop_tokens: frozenset[int] = frozenset(),
) -> Request:
    """A request from the arguments of `stream_generate`; RequestError for those that cannot work."""
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int)):
        raise RequestError(f"max_tokens must be an integer, not {max_tokens!r}.")
    if history is not None and prompt_cache is None:
        raise RequestError("history says what a prompt_cache holds; without one, put the tokens into the prompt.")
    if prompt_cache is not None:
        if not prompt_cache:
            prompt_cache.extend(new_states(model, options))
        apply_kv_options(prompt_cache, options)
    return Request(
        prompt=tuple(tokens),
        max_tokens=None if max_tokens == -1 else max_tokens,
        stop_tokens=stop_tokens,
        sampler=sampler or greedy_sampler,
        logits_processors=tuple(logits_processors or ()),
        constraint=constraint,
        speculation=speculation,
        states=prompt_cache,
        history=() if history is None else tuple(token_ids(history)),
        kv=options,
        input_embeddings=input_embeddings,
        on_progress=progress,
    )


def token_events(
    model: nn.Module, request: Request, prefill_step_size: int, stream: Any
) -> Generator[TokenEvent, None, None]:
    """The events of one request through an engine of its own; an MLX stream of None is the thread's own."""
    engine = Engine(model, prefill_step_size=prefill_step_size, max_batch=1)
    uid = engine.add(request)
    run = engine.run(uid)
    try:
        while True:
            if stream is None:
                event = next(run, None)
            else:
                with mx.stream(stream):
                    event = next(run, None)
            if event is None:
                return
            yield event
    finally:
        run.close()  # type: ignore[attr-defined]


def _responses(
    events: Generator[TokenEvent, None, None], text: TextStream, request: Request
) -> Generator[GenerationResponse, None, None]:
    """Events as responses: text, speeds, and the end at a stop string."""
    start = time.perf_counter()
    prompt_time = decode_start = 0.0
    count = 0
    try:
        for event in events:
            now = time.perf_counter()
            if count == 0:
                prompt_time, decode_start = now - start, now
            count += 1
            reason = event.finish_reason
            segment = text.add(event.token) if event.token not in request.stop_tokens else ""
            if reason is not None:
                segment += text.finish()
            if text.stopped is not None:
                reason = "stop"
            yield GenerationResponse(
                text=segment,
                token=event.token,
                logprobs=event.logprobs,
                from_draft=event.from_draft,
                prompt_tokens=len(request.prompt),
                prompt_tps=len(request.prompt) / max(prompt_time, 1e-9),
                generation_tokens=count,
                generation_tps=(count - 1) / max(now - decode_start, 1e-9) if count > 1 else 0.0,
                peak_memory=mx.get_peak_memory() / 1e9,
                finish_reason=reason,
            )
            if reason is not None:
                return
    finally:
        events.close()
