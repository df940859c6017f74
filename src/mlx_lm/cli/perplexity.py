"""`mlx_lm.perplexity`: how well a model predicts a text."""

import argparse
import json
import sys
from collections.abc import Sequence

from . import options
from .app import main as run_main
from .app import say

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.perplexity", description="Measure how well a model predicts a text.")
    add = parser.add_argument
    options.add_model_options(parser, required=True)
    add("--batch-size", type=options.positive, default=8, metavar="N", help="windows computed together (default: 8)")
    add("--sequence-length", type=options.positive, default=512, metavar="N", help="tokens of a window (default: 512)")
    add("--num-samples", type=int, default=256, metavar="N", help="windows; -1: all of the data (default: 256)")
    add(
        "--data-path",
        default="allenai/tulu-3-sft-mixture",
        metavar="DATA",
        help="text, .json or .jsonl file, or a Hugging Face dataset (default: %(default)s)",
    )
    add("--seed", type=int, default=123, metavar="N", help="order of the texts (default: 123)")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _run(args: argparse.Namespace) -> int:
    from .loading import load_model

    loaded = load_model(args.model, adapter_path=args.adapter_path, trust_remote_code=args.trust_remote_code)
    import mlx.core as mx

    from ..evaluate.perplexity import first_token, load_texts, measure_perplexity, token_windows

    texts = load_texts(args.data_path, loaded.tokenizer, seed=args.seed)
    windows = token_windows(texts, args.sequence_length, args.num_samples, begin=first_token(loaded.tokenizer))
    mx.reset_peak_memory()
    live = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if live:
            print(f"\r\033[K{done} of {total} windows" if done < total else "\r\033[K", end="", file=sys.stderr)
            sys.stderr.flush()

    result = measure_perplexity(loaded.model, windows, batch_size=args.batch_size, progress=progress)
    memory = mx.get_peak_memory() / 1e9
    if args.json:
        found = {
            "model": loaded.name,
            "data": args.data_path,
            "perplexity": result.perplexity,
            "standard_error": result.standard_error,
            "mean_nll": result.mean_nll,
            "tokens": result.tokens,
            "windows": result.windows,
            "sequence_length": args.sequence_length,
            "tokens_per_second": result.tokens_per_second,
            "peak_memory_gb": memory,
        }
        print(json.dumps(found))
        return 0
    print(f"Perplexity: {result.perplexity:.3f} ± {result.standard_error:.3f}")
    say(
        f"{result.tokens:,} tokens in {result.windows:,} windows, {result.seconds:.1f} s, "
        f"{result.tokens_per_second:.1f} tokens/s, peak memory {memory:.2f} GB"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
