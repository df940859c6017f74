"""What 8-bit activations cost in accuracy: perplexity of a text in both modes, window by window.

    python -m benchmarks.accuracy --data-path TEXT [--model MODEL] [--windows N]

The windows of the text come in random order, eight in exact mode and the same eight in int8, so that the difference is
known better than either perplexity, and a run that is stopped has measured a sample: every piece prints what is known
so far to stderr. The result goes to stdout.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from mlx_lm import load
from mlx_lm.errors import MLXLMError
from mlx_lm.evaluate.perplexity import first_token, load_texts, measure_perplexity, token_windows
from mlx_lm.kernels import native

PIECE = 8  # windows


def summary(losses: dict[str, list[float]], tokens: int) -> str:
    """A line from the mean losses (nats) of pieces of equal length, by mode."""
    change = [fast - exact for fast, exact in zip(losses["int8"], losses["exact"], strict=True)]
    mean = statistics.fmean(change)
    error = f"{statistics.stdev(change) / math.sqrt(len(change)):.3%}" if len(change) > 1 else "unknown"
    perplexity = {mode: math.exp(statistics.fmean(values)) for mode, values in losses.items()}
    return (
        f"{tokens:,} tokens: perplexity {perplexity['exact']:.4f} exact, {perplexity['int8']:.4f} int8, "
        f"{math.expm1(mean):+.3%} (standard error {error})"
    )


def _measured(model: Any, windows: list[list[int]], length: int) -> tuple[dict[str, list[float]], int]:
    """The mean losses (nats) of the pieces by mode, and how many tokens they have; progress goes to stderr."""
    losses: dict[str, list[float]] = {"exact": [], "int8": []}
    done = 0
    for first in range(0, len(windows) - PIECE + 1, PIECE):
        for mode, values in losses.items():
            native.set_activations(mode)
            values.append(measure_perplexity(model, windows[first : first + PIECE]).mean_nll)
        done += PIECE * (length - 1)
        print(summary(losses, done), file=sys.stderr, flush=True)
    return losses, done


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data-path", required=True, help="text, .json or .jsonl file, or a Hugging Face dataset")
    parser.add_argument("--sequence-length", type=int, default=1024, help="tokens of a window (default: 1024)")
    parser.add_argument("--windows", type=int, default=-1, help="how many (default: all)")
    options = parser.parse_args(argv)
    before = native.activations()
    try:
        model, tokenizer = load(options.model)[:2]
        native.set_activations("int8")  # refused before the text is read
        kernels = native.describe()
        texts = load_texts(options.data_path, tokenizer)
        windows = token_windows(texts, options.sequence_length, begin=first_token(tokenizer))
        random.Random(0).shuffle(windows)
        windows = windows[: None if options.windows < 0 else options.windows]
        losses, done = _measured(model, windows, options.sequence_length)
    except MLXLMError as error:
        parser.error(str(error))
    finally:
        native.set_activations(before)
    if not done:
        parser.error(f"the text has {len(windows)} windows, fewer than {PIECE}")
    print(f"{options.model}, {kernels}: {summary(losses, done)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
