"""`mlx_lm.benchmark`: prompt and generation speed on random tokens, through the engine that everything else uses."""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ContextLengthError, RequestError
from . import options
from .app import main as run_main
from .app import say

__all__ = ["main"]

_REFUSED = {
    "pipeline": "models that are spread over several machines can't be run yet.",
    "quantize_activations": "there are no kernels for nvfp4 or mxfp8 activations; on a CPU, MLX_LM_ACTIVATIONS=int8 "
    "computes with 8-bit activations.",
}


@dataclass(frozen=True)
class Trial:
    """Speeds in tokens per second over the whole batch; memory in gigabytes (1e9 bytes)."""

    prompt_tps: float
    generation_tps: float
    peak_memory: float
    seconds: float


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.benchmark", description="Measure prompt and generation speed.")
    add = parser.add_argument
    options.add_model_options(parser)
    add("--prompt-tokens", "-p", type=options.positive, default=512, metavar="N", help="default: 512")
    add("--generation-tokens", "-g", type=options.positive, default=1024, metavar="N", help="default: 1024")
    add("--batch-size", "-b", type=options.positive, default=1, metavar="N", help="sequences at once (default: 1)")
    add("--num-trials", "-n", type=options.positive, default=5, metavar="N", help="default: 5, after one that warms up")
    add("--delay", type=float, default=0, metavar="SECONDS", help="pause before each trial")
    add("--json", action="store_true", help="print one JSON object")
    options.add_kv_options(parser)
    add("--pipeline", action="store_true", help=argparse.SUPPRESS)
    add("--quantize-activations", "-qa", action="store_true", help=argparse.SUPPRESS)
    return parser


def _run(args: argparse.Namespace) -> int:
    options.refuse(args, _REFUSED)
    if not 0 <= args.delay < 86_400:
        raise RequestError(f"--delay must be between 0 and 86400 seconds, not {args.delay:g}.")
    kv = options.kv_arguments(args)
    from .loading import load_model

    loaded = load_model(args.model, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    from ..engine import context_length
    from ..kernels import native

    wanted, limit = args.prompt_tokens + args.generation_tokens, context_length(loaded.model)
    if limit is not None and wanted > limit:
        raise ContextLengthError(wanted, limit)
    prompts = _prompts(len(loaded.tokenizer), args.batch_size, args.prompt_tokens)
    how = native.describe()
    say(
        f"{loaded.name}: {args.prompt_tokens} prompt and {args.generation_tokens} generated tokens, "
        f"batch of {args.batch_size}; {how}"
    )
    _trial(loaded.model, prompts, min(args.generation_tokens, 8), args.prefill_step_size, kv)
    trials = []
    for number in range(1, args.num_trials + 1):
        time.sleep(args.delay)
        trial = _trial(loaded.model, prompts, args.generation_tokens, args.prefill_step_size, kv)
        trials.append(trial)
        line = f"Trial {number}:  {_line(trial)}, seconds={trial.seconds:.2f}"
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
    report = _report(trials)
    if args.json:
        about = {k: getattr(args, k) for k in ("prompt_tokens", "generation_tokens", "batch_size", "num_trials")}
        found = {"model": loaded.name, "kernels": how, "activations": native.activations(), **about, **report}
        print(json.dumps({**found, "trials": [asdict(t) for t in trials]}))
        return 0
    for name in ("prompt_tps", "generation_tps"):
        value = report[name]
        print(f"{name}: median {value['median']:.3f}, from {value['min']:.3f} to {value['max']:.3f}")
    print(f"peak_memory: {report['peak_memory']:.3f} GB")
    return 0


def _prompts(vocabulary: int, batch_size: int, length: int) -> list[list[int]]:
    """Random ids, the same at every start."""
    generator = random.Random(0)
    return [[generator.randrange(vocabulary) for _ in range(length)] for _ in range(batch_size)]


def _trial(model: Any, prompts: list[list[int]], generate: int, step: int, kv: dict[str, Any]) -> Trial:
    """All prompts, then `generate` tokens of each, with no token that ends a text."""
    import mlx.core as mx

    from ..engine import BatchGenerator

    mx.clear_cache()
    mx.reset_peak_memory()
    generator = BatchGenerator(
        model,
        max_tokens=generate,
        completion_batch_size=len(prompts),
        prefill_step_size=step,
        prefer_prefill_when_pending=True,
        **kv,
    )
    start = time.perf_counter()
    with generator.stats() as read:
        generator.insert(prompts)
        while generator.next_generated():
            pass
        stats = read()
    seconds = time.perf_counter() - start
    generator.close()
    # Each sequence's first token is sampled with its prompt; the decode steps made the others.
    decoded = stats.generation_tokens - len(prompts)
    speed = decoded / stats.decode_time if decoded and stats.decode_time else 0.0
    return Trial(stats.prompt_tps, speed, mx.get_peak_memory() / 1e9, seconds)


def _line(trial: Trial) -> str:
    return (
        f"prompt_tps={trial.prompt_tps:.3f}, generation_tps={trial.generation_tps:.3f}, "
        f"peak_memory={trial.peak_memory:.3f}"
    )


def _report(trials: list[Trial]) -> dict[str, Any]:
    """Medians and extremes of the speeds; the highest memory."""
    report: dict[str, Any] = {}
    for name in ("prompt_tps", "generation_tps"):
        values = [getattr(trial, name) for trial in trials]
        report[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**report, "peak_memory": max(trial.peak_memory for trial in trials)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
