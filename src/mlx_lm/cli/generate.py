"""`mlx_lm.generate`: the text that follows a prompt.

Text goes to stdout as it comes (or one JSON object with --json), counts and speeds to stderr. Nothing limits the
answer unless an option does; when something cut it off, a line on stderr says what and how to lift it.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import RequestError
from . import options
from .app import main as run_main
from .app import no_collections, say

__all__ = ["main"]

_REFUSED = {
    "image": "the models of this package read text only.",
    "quantize_activations": "there are no kernels for nvfp4 or mxfp8 activations; on a CPU, MLX_LM_ACTIVATIONS=int8 "
    "computes with 8-bit activations.",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.generate", description="Write the text that follows a prompt.")
    add = parser.add_argument
    options.add_model_options(parser)
    add("--prompt", "-p", default="hello", metavar="TEXT", help="the prompt, '-' for stdin; \\n and \\t are unescaped")
    add("--prompt-file", metavar="FILE", help="read the prompt from a file")
    add("--raw-prompt", action="store_true", help="leave \\n and \\t in --prompt as they are")
    add("--system-prompt", metavar="TEXT", help="instructions that come before the prompt")
    add("--prefill-response", metavar="TEXT", help="how the answer begins; it goes on from there")
    options.add_template_options(parser)
    add("--max-tokens", "-m", type=options.token_limit, default=-1, metavar="N", help="default -1: no limit")
    add("--stop", action="append", metavar="TEXT", help="end before this text; can be given several times")
    add("--extra-eos-token", nargs="+", default=(), metavar="TOKEN", help="ids or texts of more tokens that end")
    add("--verbose", type=options.boolean, default=True, metavar="BOOL", help="show counts and speeds (default: true)")
    add("--json", action="store_true", help="print one JSON object in place of the text")
    add(
        "--logprobs", type=int, nargs="?", const=0, metavar="TOP", help="with --json: log-probabilities, and TOP others"
    )
    add("--prompt-cache-file", metavar="FILE", help="go on from a prompt saved by mlx_lm.cache_prompt")
    options.add_output_options(parser)
    options.add_sampling_options(parser)
    options.add_kv_options(parser)
    options.add_draft_options(parser)
    add("--image", nargs="+", metavar="FILE", help=argparse.SUPPRESS)
    add("--quantize-activations", "-qa", action="store_true", help=argparse.SUPPRESS)
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuses contradictions before a model is loaded."""
    options.refuse(args, _REFUSED)
    options.draft_conflicts(args)
    if args.logprobs is not None and not args.json:
        raise RequestError("--logprobs needs --json.")
    if args.logprobs is not None and args.logprobs < 0:
        raise RequestError(f"--logprobs must be at least 0, not {args.logprobs}.")
    if args.prompt_cache_file is None:
        return
    fixed = ("system_prompt", "ignore_chat_template", "use_default_chat_template", "chat_template_config")
    for name in fixed:
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            raise RequestError(f"{option} is settled by the prompt cache; give it to mlx_lm.cache_prompt.")


def _run(args: argparse.Namespace) -> int:
    with no_collections():
        loaded, responses, cached = _start(args)
    if args.json:
        last = _print_json(args, loaded, responses, cached=cached)
    else:
        last = _print_text(responses)
        if args.verbose:
            say(_statistics(last))
    if last.finish_reason == "length":
        say(_what_stopped(args, loaded.model, last))
    return 0


def _start(args: argparse.Namespace) -> tuple[Any, Iterator[Any], int]:
    """(model, the responses to come, tokens that a prompt cache holds already)."""
    _check(args)
    kv = options.kv_arguments(args)
    kind = options.output_type(args)
    from .prompt import read_prompt

    text = read_prompt(args.prompt, args.prompt_file, raw=args.raw_prompt)
    from .loading import load_draft

    loaded, states, held, tokens, stop = _prepare(args, text)
    tokenizer = loaded.tokenizer
    for token in args.extra_eos_token:
        tokenizer.add_eos_token(token)
    chosen = options.sampling(args, tokenizer)
    draft = load_draft(args.draft_model, trust_remote_code=args.trust_remote_code)
    from ..engine import stream_generate
    from .progress import prefill_progress

    responses = stream_generate(
        loaded.model,
        tokenizer,
        tokens,
        args.max_tokens,
        draft,
        stop=[*(args.stop or ()), *stop] or None,
        sampler=chosen.sampler,
        logits_processors=chosen.processors,
        prompt_cache=states,
        history=held or None,
        constraint=options.answer_constraint(args, kind, tokenizer, [*held, *tokens]),
        prefill_step_size=args.prefill_step_size,
        prompt_progress_callback=prefill_progress(),
        **options.speculation_arguments(args),
        **kv,
    )
    return loaded, responses, len(held)


def _prepare(
    args: argparse.Namespace, text: str
) -> tuple[Any, list[Any] | None, list[int], list[int], tuple[str, ...]]:
    """(model, states, tokens they hold, tokens to compute, stop strings)."""
    from .loading import load_model
    from .prompt import ChatFormat

    if args.prompt_cache_file is not None:
        return _prepare_saved(args, text)
    loaded = load_model(args.model, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    chat = ChatFormat.choose(
        loaded.tokenizer,
        ignore=args.ignore_chat_template,
        use_default=args.use_default_chat_template,
        variables=args.chat_template_config,
    )
    for option in ("system_prompt", "prefill_response", "chat_template_config"):
        chat.require(f"--{option.replace('_', '-')}", getattr(args, option))
    if chat.template is not None:
        system = [] if args.system_prompt is None else [{"role": "system", "content": args.system_prompt}]
        text = chat.answer_text([*system, {"role": "user", "content": text}], args.prefill_response)
    return loaded, None, [], chat.encode(text), chat.stop


def _prepare_saved(args: argparse.Namespace, text: str) -> tuple[Any, list[Any], list[int], list[int], tuple[str, ...]]:
    """As `_prepare`, going on from a prompt cache file."""
    from . import saved_prompt
    from .loading import load_model
    from .prompt import ChatFormat
    from .turns import Turns

    file = args.prompt_cache_file
    states, metadata = saved_prompt.load_saved_prompt(file)
    name = saved_prompt.read_model_name(metadata, file, args.model)
    prompt = saved_prompt.read_prompt_entry(metadata, file)
    given = {k: getattr(args, k) for k in ("kv_bits", "kv_group_size", "quantized_kv_start", "max_kv_size")}
    saved_prompt.check_kv(prompt, file, given)
    loaded = load_model(name, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    saved_prompt.check_made_for(metadata, file, loaded, args.adapter_path)
    if prompt.known:
        chat = ChatFormat.of(loaded.tokenizer, prompt.template, prompt.variables)
    else:
        chat = ChatFormat.choose(loaded.tokenizer)
    chat.require("--prefill-response", args.prefill_response)
    if prompt.eos is not None:
        loaded.tokenizer.add_eos_token(prompt.eos)
    turns = Turns.saved(states, prompt.tokens)
    held, rest = saved_prompt.continue_prompt(prompt, turns, chat, text, args.prefill_response)
    return loaded, turns.states, held, rest, chat.stop


def _print_text(responses: Iterator[Any]) -> Any:
    """Prints text as it comes and returns the last response."""
    last = None
    for last in responses:
        print(last.text, end="", flush=True)
    print(flush=True)
    assert last is not None  # a prompt gives at least one token
    return last


def _print_json(args: argparse.Namespace, loaded: Any, responses: Iterator[Any], *, cached: int) -> Any:
    """Prints one JSON object at the end and returns the last response."""
    text, last, tokens, logprobs = "", None, [], []
    for last in responses:
        text += last.text
        tokens.append(last.token)
        if args.logprobs is not None:
            logprobs.append(_logprob(last.token, last.logprobs, args.logprobs, loaded.tokenizer))
    assert last is not None
    result: dict[str, Any] = {
        "model": loaded.name,
        "text": text,
        "finish_reason": last.finish_reason,
        "prompt_tokens": last.prompt_tokens + cached,
        "cached_tokens": cached,
        "generation_tokens": last.generation_tokens,
        "prompt_tps": round(last.prompt_tps, 3),
        "generation_tps": round(last.generation_tps, 3),
        "peak_memory_gb": round(last.peak_memory, 3),
        "tokens": tokens,
    }
    if args.logprobs is not None:
        result["logprobs"] = logprobs
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return last


def _logprob(token: int, logprobs: Any, top: int, tokenizer: Any) -> dict[str, Any]:
    """The log-probability of one token, and the `top` likeliest in falling order."""
    import mlx.core as mx

    def value(i: int) -> float | None:
        number = float(logprobs[i].item())
        return number if math.isfinite(number) else None  # JSON has no infinity

    entry: dict[str, Any] = {"id": token, "token": tokenizer.decode([token]), "logprob": value(token)}
    if top:
        best: list[int] = mx.argsort(-logprobs)[:top].tolist()  # type: ignore[assignment]
        entry["top"] = [{"id": i, "token": tokenizer.decode([i]), "logprob": value(i)} for i in best]
    return entry


def _statistics(last: Any) -> str:
    lines = [
        f"Prompt: {last.prompt_tokens:,} tokens, {last.prompt_tps:.1f} tokens/s",
        f"Generation: {last.generation_tokens:,} tokens, {last.generation_tps:.1f} tokens/s",
        f"Peak memory: {last.peak_memory:.3f} GB",
    ]
    return "\n".join(["-" * 10, *lines])


def _what_stopped(args: argparse.Namespace, model: Any, last: Any) -> str:
    if args.max_tokens == last.generation_tokens:
        if not args.close_within_budget and any((args.schema, args.regex, args.choice, args.grammar)):
            return (
                f"Stopped by --max-tokens {args.max_tokens}: the structure may not be complete. A larger number goes "
                "on, --close-within-budget completes it in time."
            )
        return f"Stopped by --max-tokens {args.max_tokens}; a larger number goes on, -1 lifts the limit."
    from ..engine import context_length

    return f"Stopped at the end of the model's context, {context_length(model):,} tokens; a shorter prompt leaves more."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
