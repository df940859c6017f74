"""What all commands share: how they start, how they fail, which there are.

Contract: `main(parser, run, argv)` reads the arguments, runs the command and gives its exit status: 0, 1 with one
line on stderr for an error of this package, 2 for wrong arguments, 130 after Ctrl-C, 141 when the reader of stdout
has gone. `--debug` or MLX_LM_DEBUG=1 shows the traceback. Imports no MLX.
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from ..errors import MLXLMError

__all__ = ["COMMANDS", "main", "no_collections", "say"]

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "generate": "write the text that follows a prompt",
        "chat": "talk with a model in the terminal",
        "cache_prompt": "compute a long prompt once and save it for generate and chat",
        "server": "serve models over HTTP, in OpenAI's and Anthropic's protocols",
        "manage": "list, inspect, describe and delete cached models",
        "convert": "write a model in MLX's format, quantized or not",
        "evaluate": "run tasks of the lm-eval harness",
        "perplexity": "measure how well a model predicts a text",
        "benchmark": "measure prompt and generation speed",
    }
)

INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells count


def main(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None
) -> int:
    """Runs a command; see the module's contract. Wrong arguments raise SystemExit(2), as argparse does."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (or MLX_LM_DEBUG=1)")
    args = parser.parse_args(argv)
    debug = args.debug or os.environ.get("MLX_LM_DEBUG", "0") not in ("", "0")
    try:
        status = run(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # What is still buffered would raise again while Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except MLXLMError as error:
        if debug:
            raise
        say(f"{parser.prog}: {error}")
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        say("")
        return INTERRUPTED


def say(line: str) -> None:
    """A message for the user, on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def no_collections() -> Iterator[None]:
    """Python looks for no garbage while a command starts: it would find modules and vocabularies, in 60 of 500 ms."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # and back, into the oldest generation: else the next new object would have all of it looked at
        gc.unfreeze()
        gc.enable()
