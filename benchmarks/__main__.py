"""`python -m benchmarks`: this package, mlx-lm 0.32.2 and llama.cpp on the same model in one interleaved run.

A round measures every engine once, each in a fresh process; rounds follow each other, so that a machine that changes
its speed changes it for all. Tables go to stdout, progress to stderr.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .engines import MEASURES, Engine, LlamaCpp, MlxLm, Ours, Sizes
from .prepare import FORMATS, Files, default_cache, prepare
from .process import MeasureError
from .report import Row, cells, markdown, plain, summarize

MODELS = ("smollm2", "qwen2.5-coder-1.5b")
ONLY = (*MEASURES, "rss")
PEER_DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Found:
    """What a run gathers: rows in table order, our kernels by mode, weight bytes by format, and the memory's speed in
    GB/s beside each of our rows of decoding."""

    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    weight_bytes: dict[str, int] = field(default_factory=dict)
    reads: dict[tuple[str, str], list[float]] = field(default_factory=dict)


def _choices(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        wrong = [part for part in chosen if part not in allowed]
        if wrong or not chosen:
            raise argparse.ArgumentTypeError(f"choose from {','.join(allowed)}, not {','.join(wrong) or 'nothing'}")
        return chosen

    return read


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    found = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    add = found.add_argument
    add("--model", choices=MODELS, default="smollm2")
    add("--formats", type=_choices(FORMATS), default=("4bit", "bf16"), metavar="LIST", help=",".join(FORMATS))
    add("--only", type=_choices(ONLY), default=ONLY, metavar="LIST", help=",".join(ONLY))
    add("--peer-python", metavar="PATH", help="a Python that has mlx-lm 0.32.2")
    add("--peer-dtype", choices=PEER_DTYPES, default="bfloat16", help="scales of the 4- and 8-bit folders")
    add("--llama-bench", metavar="PATH", help="llama-bench; llama-batched-bench is looked for beside it")
    add("--llama-quantize", metavar="PATH", help="makes Q4_0, Q8_0 and BF16 files from the packaged one")
    add("--rounds", type=_count, default=3)
    add("--threads", type=_count, default=2)
    add("--depth", type=_count, default=512, help="tokens in the context when decoding starts")
    add("--tokens", type=_count, default=128, help="tokens decoded")
    add("--prefill", type=_count, default=512, help="tokens of the prompt")
    add("--batch-tokens", type=_count, default=128, help="tokens decoded by each of the 8 sequences")
    add(
        "--repeats",
        type=_count,
        default=5,
        help="measure so often in a process, for a mean speed; a batch 3 times at most",
    )
    add("--peer-tokens", type=_count, default=8, help="tokens decoded by mlx-lm, in a batch by each sequence")
    add("--peer-prefill", type=_count, default=64, help="tokens of mlx-lm's prompt")
    add("--timeout", type=_count, default=600, metavar="SECONDS", help="of one measurement")
    add("--cache", type=Path, metavar="FOLDER", help="where converted models are kept")
    add("--json", metavar="FILE", help="write every sample")
    add("--markdown", action="store_true", help="print the table in Markdown")
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def engines(form: str, files: Files, *, peer_python: str | None, llama_bench: str | None) -> list[Engine]:
    """The engines of one format, ours first. With int8 activations, bfloat16 weights get bfloat16 ones."""
    modes = ("exact", "int8")
    found: list[Engine] = [Ours(f"ours, {mode}", files.ours, mode=mode) for mode in modes]
    if peer_python and files.peer:
        found.append(MlxLm("mlx-lm 0.32.2", files.peer, python=peer_python))
    if llama_bench:
        batched = Path(llama_bench).with_name("llama-batched-bench")
        beside = str(batched) if batched.is_file() else None
        found += [LlamaCpp(f"llama.cpp {q}", p, bench=llama_bench, batched=beside) for q, p in files.llama.items()]
    return found


def _measure(found: Found, form: str, what: Any, engine: Engine, sizes: Sizes, only: Sequence[str]) -> None:
    """One measurement; a failure is kept in the row, and ends the engine's turns at this measurement."""
    mode = getattr(engine, "mode", "")
    note = engine.note(what, sizes)
    row = found.rows.setdefault((form, what, engine.label), Row(form, what, engine.family, engine.label, mode, note))
    if row.failure:
        return
    try:
        sample = engine.measure(what, sizes)
    except MeasureError as error:
        row.failure = str(error)
        _say(f"  {form} {what} {engine.label}: {error}")
        return
    row.samples.append(sample.value)
    _say(f"  {form} {what} {engine.label}: {sample.value:.2f}, {sample.rss / 1e6:.0f} MB")
    if engine.family == "ours" and sample.about:
        found.kernels[mode] = sample.about["kernels"]
        found.weight_bytes[form] = sample.about["weight_bytes"]
        found.reads.setdefault((form, engine.label), []).extend(sample.about.get("reads", ()))
    if what == "decode" and "rss" in only:
        key = (form, "rss", engine.label)
        found.rows.setdefault(key, Row(form, "rss", engine.family, engine.label, mode)).samples.append(sample.rss)


def collect(options: argparse.Namespace, plan: dict[str, list[Engine]], sizes: Sizes) -> Found:
    """All rounds: each measures every engine once at everything that was asked for."""
    found = Found()
    wanted = [w for w in MEASURES if w in options.only or (w == "decode" and "rss" in options.only)]
    for number in range(1, options.rounds + 1):
        _say(f"Round {number} of {options.rounds}")
        for form, listed in plan.items():
            for what in wanted:
                for engine in listed:
                    if what in engine.measures():
                        _measure(found, form, what, engine, sizes, options.only)
    return found


def _ordered(found: Found, plan: dict[str, list[Engine]], only: Sequence[str]) -> list[Row]:
    keys = [(form, what, engine.label) for form in plan for what in ONLY if what in only for engine in plan[form]]
    return [found.rows[key] for key in keys if key in found.rows]


def bandwidth_lines(found: Found) -> list[str]:
    """What our decoding streams, as a share of what the memory gave meanwhile."""
    lines = []
    for (form, what, label), row in found.rows.items():
        reads = found.reads.get((form, label))
        if what == "decode" and row.samples and reads:
            streamed = summarize(row.samples).median * found.weight_bytes[form] / 1e9
            size, speed = found.weight_bytes[form] / 1e6, summarize(reads)
            lines.append(
                f"{form} decode, {label}: {size:.0f} MB of weights a token, {streamed:.1f} GB/s, "
                f"{streamed / speed.median:.0%} of what reading memory gave between the repeats: {speed.median:.1f} "
                f"({speed.low:.1f}-{speed.high:.1f})."
            )
    return lines


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def remarks(options: argparse.Namespace, found: Found) -> list[str]:
    """What must be known to read the table."""
    lines = [
        f"Model {options.model}; {options.threads} threads (mlx-lm: MLX's own choice); {_cpu()}, {platform.system()}; "
        f"rounds: {options.rounds}.",
        f"Decode: {options.tokens} tokens after {options.depth}. Prefill: {options.prefill} tokens, logits of the "
        f"last. Batch: 8 sequences, {options.batch_tokens} tokens each after {options.depth}. "
        "First token: from process start. Peak memory: of the decode process.",
        "'better by' is ours / theirs for speeds and theirs / ours for seconds and memory: above 1 ours is better. "
        "* is llama.cpp's best quant.",
    ]
    lines += [f"Kernels, {mode}: {kernels}." for mode, kernels in found.kernels.items()]
    if options.peer_python:
        lines.append(f"mlx-lm's packed weights: group 64, {options.peer_dtype} scales.")
    else:
        lines.append("mlx-lm was not measured: give --peer-python.")
    if not options.llama_bench:
        lines.append("llama.cpp was not measured: give --llama-bench.")
    elif not options.llama_quantize:
        lines.append("llama.cpp was measured with the packaged file only: give --llama-quantize for Q4_0, Q8_0, BF16.")
    return [*lines, *bandwidth_lines(found)]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison and returns its exit status."""
    options = parser().parse_args(argv)
    from mlx_lm.errors import MLXLMError
    from mlx_lm.hub.packaged import cached_path

    gguf = cached_path(options.model)
    if gguf is None:
        _say(f"{options.model} is not cached: run `mlx_lm.generate --model {options.model} --max-tokens 1` first.")
        return 1
    sizes = Sizes(
        depth=options.depth, tokens=options.tokens, prefill=options.prefill, batch_tokens=options.batch_tokens,
        repeats=options.repeats,
        batch_repeats=min(options.repeats, 3),
        peer_tokens=options.peer_tokens, peer_prefill=options.peer_prefill, threads=options.threads,
        timeout=options.timeout,
    )  # fmt: skip
    plan = {}
    try:
        for form in options.formats:
            files = prepare(
                gguf, form, options.cache or default_cache(), peer=bool(options.peer_python),
                peer_dtype=options.peer_dtype, llama=bool(options.llama_bench), quantize=options.llama_quantize,
                say=_say,
            )  # fmt: skip
            plan[form] = engines(form, files, peer_python=options.peer_python, llama_bench=options.llama_bench)
    except (MeasureError, MLXLMError) as error:
        _say(f"benchmarks: {error}")
        return 1
    found = collect(options, plan, sizes)
    rows = _ordered(found, plan, options.only)
    print((markdown if options.markdown else plain)(cells(rows)))
    print()
    lines = remarks(options, found)
    print("\n".join(f"- {line}" for line in lines) if options.markdown else "\n".join(lines))
    if options.json:
        about = {"options": {k: str(v) for k, v in vars(options).items()}, "remarks": lines}
        reads = {" ".join(key): speeds for key, speeds in found.reads.items()}
        data = {**about, "reads": reads, "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
