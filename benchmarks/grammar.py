"""Structured output: what a mask costs per token, and how much slower structured decoding is than free decoding.

    python -m benchmarks.grammar --tokenizer FOLDER      masks, with the vocabulary of a model's folder
    python -m benchmarks.grammar --model smollm2         decoding, structured against free

Masks are timed along outputs of a random-logits model, the first mask of every output included. Prints one table.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_lm.grammar import CFG, Choice, JsonSchema, Regex, compile_constraint, mask_tokens
from mlx_lm.tokenizer import load_tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
        },
    },
    "required": ["name", "age", "tags", "address"],
}
SPECS: dict[str, Any] = {
    "JSON Schema": JsonSchema(PERSON),
    "any JSON": JsonSchema({}),
    "regex": Regex(r"[A-Z][a-z]{2,20}( [A-Z][a-z]{2,20}){1,3}, \d{1,3}"),
    "choice of 500": Choice([f"option number {i}" for i in range(500)]),
    "arithmetic": CFG('start: term (("+"|"-"|"*"|"/") term)*\nterm: /[0-9]+/ | "(" start ")"'),
    "int": int,
    "Literal": Literal["Paris", "London", "Rome"],
}


def mask_times(spec: Any, tokenizer: Any, outputs: int, length: int) -> tuple[float, list[float]]:
    """(seconds to compile, seconds of every mask and accept along random outputs)."""
    start = time.perf_counter()
    grammar = compile_constraint(spec, tokenizer)
    compiled = time.perf_counter() - start
    quote = [t for byte in b'"}],' for t in grammar.vocabulary.tokenize_bytes(bytes([byte]))]
    times: list[float] = []
    for seed in range(outputs):
        rng = np.random.default_rng(seed)
        constraint = grammar.start()
        for _ in range(length):
            if constraint.done:
                break
            start = time.perf_counter()
            mask = constraint.mask()
            spent = time.perf_counter() - start
            allowed = mask_tokens(mask)
            closing = [t for t in quote if t in allowed] if rng.random() < 0.1 else []
            token = int(rng.choice(closing or allowed))
            start = time.perf_counter()
            constraint.accept(token)
            times.append(spent + time.perf_counter() - start)
    return compiled, times


def masks(folder: str, outputs: int, length: int) -> None:
    tokenizer = load_tokenizer(Path(folder))
    start = time.perf_counter()
    compile_constraint(bool, tokenizer)
    print(f"{len(tokenizer):,} tokens; vocabulary read in {time.perf_counter() - start:.2f} s")
    print(f"{'grammar':<16}{'compile ms':>11}{'masks':>8}{'mean us':>9}{'p50 us':>8}{'p99 us':>8}{'max us':>8}")
    everything: list[float] = []
    for name, spec in SPECS.items():
        compiled, times = mask_times(spec, tokenizer, outputs, length)
        everything += times
        print(_row(name, f"{compiled * 1e3:.1f}", times))
    print(_row("all", "", everything))


def _row(name: str, compiled: str, times: Sequence[float]) -> str:
    middle, late = np.quantile(times, [0.5, 0.99]) * 1e6
    mean, worst = statistics.fmean(times) * 1e6, max(times) * 1e6
    return f"{name:<16}{compiled:>11}{len(times):>8}{mean:>9.0f}{middle:>8.0f}{late:>8.0f}{worst:>8.0f}"


def decoding(name: str, tokens: int, rounds: int) -> None:
    from mlx_lm import load, stream_generate

    model, tokenizer = load(name)  # type: ignore[misc]
    prompt = "Describe a person as JSON."
    # Text of any length inside one value, so that both write the same number of tokens one by one.
    spec = JsonSchema({"type": "array", "items": {"type": "string", "minLength": 20}, "minItems": 200})
    rates: dict[str, list[float]] = {"free": [], "structured": []}
    for _ in range(rounds):
        for kind, output_type in (("free", None), ("structured", spec)):
            last = list(stream_generate(model, tokenizer, prompt, max_tokens=tokens, output_type=output_type))[-1]
            if last.generation_tokens == tokens:
                rates[kind].append(last.generation_tps)
    free, structured = (statistics.median(values) for values in rates.values())
    result = {"free tokens/s": round(free, 1), "structured tokens/s": round(structured, 1)}
    print(json.dumps({**result, "structured / free": round(structured / free, 3)}))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grammar", description="Costs of structured output.")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="time masks with this tokenizer")
    parser.add_argument("--model", metavar="NAME", help="compare structured with free decoding")
    parser.add_argument("--outputs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.tokenizer is None and args.model is None:
        parser.error("give --tokenizer or --model")
    if args.tokenizer is not None:
        masks(args.tokenizer, args.outputs, args.tokens)
    if args.model is not None:
        decoding(args.model, args.tokens, args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
