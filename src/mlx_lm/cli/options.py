"""Option groups that several commands have in common, and what they make of their values.

Names and defaults are those of mlx-lm 0.32's commands. Nothing here imports MLX before it is called with values.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError, UnsupportedError

__all__ = [
    "Sampling",
    "add_draft_options",
    "add_kv_options",
    "add_model_options",
    "add_output_options",
    "add_prefill_option",
    "add_sampling_options",
    "add_template_options",
    "answer_constraint",
    "boolean",
    "draft_conflicts",
    "json_object",
    "kv_arguments",
    "output_type",
    "positive",
    "refuse",
    "sampling",
    "speculation_arguments",
    "token_limit",
]


def token_limit(text: str) -> int:
    """Argparse type of --max-tokens: at least 1, or -1 for no limit."""
    value = _integer(text)
    if value == 0 or value < -1:
        raise argparse.ArgumentTypeError(f"{text} is no limit of tokens: give at least 1, or -1 for no limit")
    return value


def positive(text: str) -> int:
    """Argparse type: an integer of at least 1."""
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def boolean(text: str) -> bool:
    """Argparse type: true/false, yes/no, on/off, 1/0."""
    known = {"true": True, "yes": True, "on": True, "1": True, "t": True, "y": True}
    known |= {"false": False, "no": False, "off": False, "0": False, "f": False, "n": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return known[text.lower()]


def json_object(text: str) -> dict[str, Any]:
    """Argparse type: a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object, such as '{\"enable_thinking\": false}'")
    return value


def _logit_bias(text: str) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in json_object(text).items():
        if not key.isdecimal() or isinstance(value, bool) or not isinstance(value, int | float):
            raise argparse.ArgumentTypeError(f"must map token ids to numbers; found {key!r}: {value!r}")
        bias[int(key)] = float(value)
    return bias


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from error


def add_model_options(
    parser: argparse.ArgumentParser, *, default: str | None = None, required: bool = False, adapter: bool = True
) -> None:
    """--model, --adapter-path, --trust-remote-code."""
    shown = "mlx-community/Llama-3.2-3B-Instruct-4bit, or smollm2 where the hub cannot be reached"
    parser.add_argument(
        "--model",
        default=default,
        required=required,
        metavar="NAME",
        help="folder, GGUF file, Hugging Face id, 'repo:file.gguf' or packaged name"
        + ("" if required else f" (default: {default or shown})"),
    )
    if adapter:
        parser.add_argument("--adapter-path", metavar="DIR", help="folder of a LoRA adapter")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let a tokenizer run its own Python code from the model"
    )


def add_template_options(parser: argparse.ArgumentParser) -> None:
    """--ignore-chat-template, --use-default-chat-template, --chat-template-config."""
    parser.add_argument("--ignore-chat-template", action="store_true", help="give the model the prompt as it is")
    parser.add_argument(
        "--use-default-chat-template",
        action="store_true",
        help="for a model without a chat template: a plain one with 'User:' and 'Assistant:'",
    )
    parser.add_argument(
        "--chat-template-config",
        type=json_object,
        metavar="JSON",
        help="variables for the chat template, such as '{\"enable_thinking\": false}'",
    )


def add_sampling_options(parser: argparse.ArgumentParser, *, seed: int | None = None) -> None:
    """Temperature, filters, penalties, bias and seed."""
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--temp", "--temperature", type=float, default=0.0, metavar="T", help="0 takes the most likely (default: 0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="keep the most likely tokens of this probability")
    add("--min-p", type=float, default=0.0, metavar="P", help="keep tokens this likely, relative to the best")
    add("--top-k", type=int, default=0, metavar="K", help="keep the K most likely tokens (0: all)")
    add("--typical-p", type=float, default=1.0, metavar="P", help="keep the most typical tokens of this probability")
    add("--xtc-probability", type=float, default=0.0, metavar="P", help="chance of dropping the top choices")
    add("--xtc-threshold", type=float, default=0.1, metavar="P", help="a top choice is above this (default: 0.1)")
    add("--min-tokens-to-keep", type=int, default=1, metavar="N", help="least tokens that --min-p keeps (default: 1)")
    add("--seed", type=int, default=seed, metavar="N", help=f"random seed (default: {seed})")
    for name, what in (("repetition", "divides the logits of"), ("presence", "is subtracted from the logits of")):
        add(f"--{name}-penalty", type=float, metavar="X", help=f"{what} tokens already seen")
        add(f"--{name}-context-size", type=int, default=20, metavar="N", help="latest tokens that count (0: all)")
    add("--frequency-penalty", type=float, metavar="X", help="is subtracted for each time a token was seen")
    add("--frequency-context-size", type=int, default=20, metavar="N", help="latest tokens that count (0: all)")
    add("--logit-bias", type=_logit_bias, metavar="JSON", help="added to logits, by token id: '{\"42\": -100}'")


def add_prefill_option(parser: Any) -> None:
    parser.add_argument(
        "--prefill-step-size", type=positive, default=2048, metavar="N", help="prompt tokens a step (default: 2048)"
    )


def add_kv_options(parser: argparse.ArgumentParser, *, prefill: bool = True) -> None:
    """--max-kv-size, --kv-bits, --kv-group-size, --quantized-kv-start, --prefill-step-size."""
    group = parser.add_argument_group("memory of the context")
    add = group.add_argument
    add("--max-kv-size", type=int, metavar="N", help="keep at most N tokens: the first 4 and the latest")
    add("--kv-bits", type=int, metavar="BITS", help="pack keys and values to 2, 3, 4, 5, 6 or 8 bits")
    add("--kv-group-size", type=int, metavar="N", help="values that share a scale (default: 64)")
    add("--quantized-kv-start", type=int, metavar="N", help="tokens from which --kv-bits applies (default: 5000)")
    if prefill:
        add_prefill_option(group)


def add_draft_options(parser: argparse.ArgumentParser) -> None:
    """--draft-model, --num-draft-tokens, --prompt-lookup-num-tokens, --auto-speculative."""
    group = parser.add_argument_group("speculation", "guesses, checked several in a step; the text is the same without")
    group.add_argument("--draft-model", metavar="NAME", help="small model of the same tokenizer that guesses ahead")
    group.add_argument("--num-draft-tokens", type=positive, default=3, metavar="N", help="guesses a step (default: 3)")
    group.add_argument(
        "--prompt-lookup-num-tokens",
        type=positive,
        metavar="N",
        help="guess N tokens from what came before in the text",
    )
    group.add_argument(
        "--auto-speculative",
        action="store_true",
        help="guess as long as it pays: with the model's next-token head, else by looking up",
    )


def refuse(args: argparse.Namespace, reasons: dict[str, str]) -> None:
    """Raises UnsupportedError for the first option of `reasons` that was given."""
    for name, reason in reasons.items():
        if getattr(args, name):
            raise UnsupportedError(f"--{name.replace('_', '-')} is not supported: {reason}")


def kv_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The kv options under the names of the Python API, with their defaults; RequestError for impossible values."""
    from ..engine import kv_options

    start = 5000 if args.quantized_kv_start is None else args.quantized_kv_start
    if start < 0:
        raise RequestError(f"--quantized-kv-start must be at least 0, not {start}.")
    values = {
        "kv_bits": args.kv_bits,
        "kv_group_size": 64 if args.kv_group_size is None else args.kv_group_size,
        "quantized_kv_start": start,
        "max_kv_size": args.max_kv_size,
    }
    kv_options(**values)
    return values


@dataclass(frozen=True)
class Sampling:
    """A sampler and the logits processors that go with it."""

    sampler: Any
    processors: list[Any]


def sampling(args: argparse.Namespace, tokenizer: Any) -> Sampling:
    """What the sampling options ask for; RequestError for values out of range."""
    from ..sampling import make_logits_processors, make_sampler

    special: list[int] = []
    if args.xtc_probability > 0:  # dropping the end or a line break would ruin the text, not vary it
        special = [*tokenizer.eos_token_ids, *tokenizer.encode("\n", add_special_tokens=False)]
    sampler = make_sampler(
        args.temp,
        args.top_p,
        args.min_p,
        args.min_tokens_to_keep,
        args.top_k,
        args.xtc_probability,
        args.xtc_threshold,
        special,
        typical_p=args.typical_p,
        seed=args.seed,
    )
    processors = make_logits_processors(
        args.logit_bias,
        args.repetition_penalty,
        args.repetition_context_size,
        args.presence_penalty,
        args.presence_context_size,
        args.frequency_penalty,
        args.frequency_context_size,
    )
    return Sampling(sampler, processors)


def draft_conflicts(args: argparse.Namespace) -> None:
    """Refuses two ways to speculate, before anything is loaded."""
    other = "--auto-speculative" if args.auto_speculative else "--prompt-lookup-num-tokens"
    if args.draft_model is not None and (args.auto_speculative or args.prompt_lookup_num_tokens is not None):
        raise UnsupportedError(f"--draft-model cannot be combined with {other}; leave out one of the two.")


def speculation_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The speculation options but the draft model, under the names of the Python API."""
    names = ("num_draft_tokens", "prompt_lookup_num_tokens", "auto_speculative")
    return {name: getattr(args, name) for name in names}


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--schema, --regex, --choice, --grammar: what the answer has to be."""
    group = parser.add_argument_group("structured output")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--schema", metavar="JSON|FILE", help="the answer is JSON that this JSON Schema accepts")
    one.add_argument("--regex", metavar="PATTERN", help="the answer is text that this pattern matches as a whole")
    one.add_argument("--choice", action="append", metavar="TEXT", help="the answer is one of these; give several")
    one.add_argument("--grammar", metavar="TEXT|FILE", help="the answer follows this grammar, in Lark or EBNF/GBNF")
    group.add_argument(
        "--close-within-budget", action="store_true", help="complete the structure within --max-tokens tokens"
    )


def output_type(args: argparse.Namespace) -> Any:
    """What the answer has to be, or None; GrammarError or RequestError before anything is loaded."""
    if args.schema is args.regex is args.choice is args.grammar is None:
        if args.close_within_budget:
            raise RequestError("--close-within-budget needs --schema, --regex, --choice or --grammar.")
        return None
    if args.close_within_budget and args.max_tokens < 1:
        raise RequestError("--close-within-budget needs --max-tokens.")
    from ..grammar import CFG, Choice, JsonSchema, Regex, check_output_type

    if args.schema is not None:
        kind: Any = JsonSchema(_text_or_file("--schema", args.schema, ("{", "true", "false")))
    elif args.regex is not None:
        kind = Regex(args.regex)
    elif args.choice is not None:
        kind = Choice(args.choice)
    else:
        is_text = "\n" in args.grammar or ":" in args.grammar
        if is_text and not _is_file(args.grammar):
            kind = CFG(args.grammar)
        else:  # a file may import files beside it
            text = _text_or_file("--grammar", args.grammar)
            kind = CFG(text, folder=Path(args.grammar).expanduser().parent)
    check_output_type(kind)
    return kind


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError):  # longer than a path can be
        return False


def _text_or_file(option: str, value: str, beginnings: tuple[str, ...] = ()) -> str:
    if beginnings and value.lstrip().startswith(beginnings):
        return value
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{option}: {value[:80]} is no file that can be read: {reason}.") from error


def answer_constraint(args: argparse.Namespace, kind: Any, tokenizer: Any, prompt: Sequence[int]) -> Any:
    """The constraint of the answer to `prompt` (all of it, what a cache holds included); None for free text."""
    if kind is None:
        return None
    from ..engine.structured import answer_constraint as build

    limit = None if args.max_tokens == -1 else args.max_tokens
    return build(kind, tokenizer, prompt, max_tokens=limit, close_within_budget=args.close_within_budget)
