"""What several users of one engine feel: stalls under a long prompt, and second turns over a shared prefix.

    python -m benchmarks.serving [--model smollm2] [--prompt 8192] [--prefix 4096]

Prints inter-token times of running streams while idle and while a long prompt is computed, and the time to the first
token of a cold prompt, of the same prefix in memory, and of the same prefix on disk after a restart.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from mlx_lm import load
from mlx_lm.engine import Engine, PrefixCache, Request, TokenEvent
from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.kernels import native


def token_times(engine: Engine, uids: list[int], seconds: float) -> Iterator[float]:
    """Times between tokens of running streams for about `seconds`."""
    last = dict.fromkeys(uids, time.perf_counter())
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for event in engine.step():
            if isinstance(event, TokenEvent) and event.uid in last:
                now = time.perf_counter()
                yield now - last[event.uid]
                last[event.uid] = now


def stalls(model: object, vocab: int, prompt_tokens: int, streams: int) -> None:
    for policy in ("fair", "prefill_first"):
        engine = Engine(model, policy=policy)  # type: ignore[arg-type]
        uids = [engine.add(Request(prompt=tuple(range(i + 5, i + 69)))) for i in range(streams)]
        while engine.stats().running < streams:
            engine.step()
        list(token_times(engine, uids, 1.0))  # warm
        idle = list(token_times(engine, uids, 3.0))
        long = engine.add(Request(prompt=tuple(i * 7 % vocab for i in range(prompt_tokens)), max_tokens=1))
        start = time.perf_counter()
        busy: list[float] = []
        while long in engine.live and time.perf_counter() - start < 90:
            busy += token_times(engine, uids, 0.05)
        took = time.perf_counter() - start
        busy += [took] if len(busy) < 2 else []  # paused all along
        p99 = [statistics.quantiles(times, n=100)[98] * 1e3 if len(times) > 1 else took * 1e3 for times in (idle, busy)]
        print(
            f"{policy:14} {streams} streams: idle p99 {p99[0]:7.1f} ms, under a {prompt_tokens}-token prompt "
            f"{p99[1]:7.1f} ms ({p99[1] / max(p99[0], 1e-9):.2f}x; median x{_ratio(busy, idle):.2f}), "
            f"prompt done in {took:.1f} s"
        )
        for uid in uids:
            engine.cancel(uid)


def _ratio(busy: list[float], idle: list[float]) -> float:
    return statistics.median(busy) / statistics.median(idle) if busy else 0.0


def first_token(engine: Engine, tokens: tuple[int, ...]) -> float:
    start = time.perf_counter()
    for _ in engine.run(engine.add(Request(prompt=tokens, max_tokens=2))):
        return time.perf_counter() - start
    raise RuntimeError("no token came")


def second_turns(model: object, vocab: int, prefix_tokens: int) -> None:
    shared = tuple(i * 13 % vocab for i in range(prefix_tokens))
    with tempfile.TemporaryDirectory() as folder:
        store = DiskStore(Path(folder), budget_bytes=8 << 30)
        engine = Engine(model, prefix_cache=PrefixCache(4 << 30, store), model_key="benchmark")  # type: ignore[arg-type]
        cold = first_token(engine, (*shared, 1, 2, 3))
        warm = [first_token(engine, (*shared, *range(i, i + 40))) for i in range(5)]
        store.close()
        restarted = []
        for _ in range(3):
            store = DiskStore(Path(folder), budget_bytes=8 << 30)
            engine = Engine(model, prefix_cache=PrefixCache(4 << 30, store), model_key="benchmark")  # type: ignore[arg-type]
            restarted.append(first_token(engine, (*shared, 9, 8, 7)))
            store.close()
    hot, disk = statistics.median(warm), statistics.median(restarted)
    print(
        f"first token after a shared prefix of {prefix_tokens} tokens: cold {cold * 1e3:.0f} ms, in memory "
        f"{hot * 1e3:.0f} ms (1/{cold / hot:.0f}), from disk after a restart {disk * 1e3:.0f} ms (1/{cold / disk:.0f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompt", type=int, default=8000)
    parser.add_argument("--prefix", type=int, default=4096)
    parser.add_argument("--streams", type=int, default=2)
    args = parser.parse_args()
    model, _ = load(args.model)
    mx.eval(model.parameters())
    print(f"{args.model}: {native.describe()}")
    second_turns(model, model.args.vocab_size, args.prefix)
    stalls(model, model.args.vocab_size, args.prompt, args.streams)


if __name__ == "__main__":
    main()
