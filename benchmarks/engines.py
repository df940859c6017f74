"""The engines that are compared: for each measurement, the command that makes it and how its number is read.

Knows nothing of rounds and tables. Units: tokens per second for decode, prefill and batch8; seconds for ttft; bytes for
rss, which is the peak of the decode process.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .process import Finished, MeasureError, run

__all__ = ["MEASURES", "Engine", "LlamaCpp", "MlxLm", "Ours", "Sample", "Sizes"]

Measure = Literal["decode", "prefill", "batch8", "ttft"]
MEASURES: tuple[Measure, ...] = ("decode", "prefill", "batch8", "ttft")
_WORKER = str(Path(__file__).with_name("worker.py"))
_PROMPT = "Hello, who are you?"


@dataclass(frozen=True)
class Sizes:
    """How much is computed; the peer's sizes are for mlx-lm, which needs a second or more for a token."""

    depth: int = 512
    tokens: int = 128
    prefill: int = 512
    batch: int = 8
    batch_tokens: int = 128
    batch_repeats: int = 3
    repeats: int = 5
    peer_tokens: int = 8
    peer_prefill: int = 64
    threads: int = 2
    timeout: float = 600.0


@dataclass(frozen=True)
class Sample:
    """One number, the peak memory of the process that made it, and what else it said."""

    value: float
    rss: int
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """One engine with one model file. `family` is "ours", "mlx-lm" or "llama.cpp"; `label` is its row in the table."""

    label: str
    model: str
    family: str = ""

    def measures(self) -> tuple[Measure, ...]:
        """What it can be measured at."""
        return MEASURES

    def measure(self, what: Measure, sizes: Sizes) -> Sample:
        """One measurement in a fresh process. Raises MeasureError."""
        raise NotImplementedError

    def note(self, what: Measure, sizes: Sizes) -> str:
        """What makes this number different from the others, or nothing."""
        return ""


def _json_lines(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise MeasureError("no result was printed")
    return lines


def _sample(done: Finished) -> Sample:
    found = _json_lines(done.stdout)[-1]
    return Sample(float(found.pop("value")), done.rss, found)


def _generate(python: str, model: str, env: Mapping[str, str | None], timeout: float) -> Sample:
    """Seconds from the start of the generate command to its first text; mlx-lm prints a rule before it."""
    argv = [python, "-m", "mlx_lm", "generate", "--model", model, "--prompt", _PROMPT, "--max-tokens", "4"]
    done = run(argv, env=env, timeout=timeout, counts=lambda out: bool(out.replace(b"=", b"").strip()))
    if done.first is None:
        raise MeasureError("no text was printed")
    return Sample(done.first, done.rss)


@dataclass(frozen=True)
class Ours(Engine):
    """This package, in one accuracy mode."""

    family: str = "ours"
    mode: str = "exact"

    def measure(self, what: Measure, sizes: Sizes) -> Sample:
        env = {"MLX_LM_ACTIVATIONS": self.mode, "MLX_LM_NUM_THREADS": str(sizes.threads)}
        if what == "ttft":
            return _generate(sys.executable, self.model, env, sizes.timeout)
        depth = f"--depth={sizes.depth}"
        argv = {
            "decode": ["decode", depth, f"--tokens={sizes.tokens}", f"--repeats={sizes.repeats}"],
            "prefill": ["prefill", f"--tokens={sizes.prefill}", f"--repeats={sizes.repeats}"],
            "batch8": [
                *("batch", depth, f"--tokens={sizes.batch_tokens}", f"--size={sizes.batch}"),
                f"--repeats={sizes.batch_repeats}",
            ],
        }[what]
        return _sample(run([sys.executable, _WORKER, *argv, "--model", self.model], env=env, timeout=sizes.timeout))


@dataclass(frozen=True)
class MlxLm(Engine):
    """mlx-lm under its own Python, which `python` names."""

    family: str = "mlx-lm"
    python: str = ""

    def measure(self, what: Measure, sizes: Sizes) -> Sample:
        env = {"PYTHONPATH": None}  # else this package would answer to mlx-lm's name
        if what == "ttft":
            return _generate(self.python, self.model, env, sizes.timeout)
        filled = [f"--depth={sizes.depth}", f"--tokens={sizes.peer_tokens}", "--fill"]
        argv = {
            "decode": ["decode", *filled],
            "prefill": ["prefill", f"--tokens={sizes.peer_prefill}", "--no-warm"],
            "batch8": ["batch", *filled, f"--size={sizes.batch}"],
        }[what]
        return _sample(run([self.python, _WORKER, *argv, "--model", self.model], env=env, timeout=sizes.timeout))

    def note(self, what: Measure, sizes: Sizes) -> str:
        return {
            "decode": f"{sizes.peer_tokens} tokens after a cache filled with random keys",
            "prefill": f"on {sizes.peer_prefill} tokens, not {sizes.prefill}; not scaled",
            "batch8": f"{sizes.peer_tokens} tokens each after caches filled with random keys",
        }.get(what, "")


@dataclass(frozen=True)
class LlamaCpp(Engine):
    """llama.cpp's own benchmark programs; `batched` is llama-batched-bench where it lies beside llama-bench."""

    family: str = "llama.cpp"
    bench: str = ""
    batched: str | None = None

    def measures(self) -> tuple[Measure, ...]:
        return MEASURES if self.batched else ("decode", "prefill", "ttft")

    def measure(self, what: Measure, sizes: Sizes) -> Sample:
        if what == "batch8":
            return self._batch(sizes)
        argv = {
            "decode": ["-p", "0", "-n", str(sizes.tokens), "-d", str(sizes.depth)],
            "prefill": ["-p", str(sizes.prefill), "-n", "0"],
            "ttft": ["-p", "16", "-n", "0", "--no-warmup"],
        }[what]
        repeats = 1 if what == "ttft" else sizes.repeats
        common = ["-m", self.model, "-t", str(sizes.threads), "-r", str(repeats), "-o", "jsonl"]
        done = run([self.bench, *common, *argv], timeout=sizes.timeout)
        found = _json_lines(done.stdout)[-1]
        return Sample(done.seconds if what == "ttft" else float(found["avg_ts"]), done.rss)

    def _batch(self, sizes: Sizes) -> Sample:
        assert self.batched is not None
        context = sizes.batch * (sizes.depth + sizes.batch_tokens)
        argv = ["-m", self.model, "-c", str(context), "-npp", str(sizes.depth), "-ntg", str(sizes.batch_tokens)]
        argv += ["-npl", ",".join([str(sizes.batch)] * sizes.batch_repeats)]
        argv += ["-t", str(sizes.threads), "-tb", str(sizes.threads)]
        done = run([self.batched, *argv, "--output-format", "jsonl"], timeout=sizes.timeout)
        speeds = [float(line["speed_tg"]) for line in _json_lines(done.stdout)]
        return Sample(sum(speeds) / len(speeds), done.rss)

    def note(self, what: Measure, sizes: Sizes) -> str:
        return "llama-bench from start to end: load and a 16-token prompt" if what == "ttft" else ""
