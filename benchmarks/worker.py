"""One measurement of `mlx_lm` in this process, printed as a line of JSON. Runs under our Python and under mlx-lm's.

    python worker.py decode|prefill|batch --model MODEL [--depth 512] [--tokens 128] [--repeats 1] [--fill]

It uses only names that both packages have, but for the memory's speed, which our kernels measure between repeats of
`decode`: on a shared machine it changes within seconds. Prompts are the same random ids at every start. `--fill` puts
random keys and values into each cache instead of computing the depth, for an engine that would take minutes for it: the
cost of a decode step does not depend on what the cache holds.
"""

import argparse
import importlib.util
import itertools
import json
import random
import time
from typing import Any

import mlx.core as mx


def _ids(count: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(1_000, 30_000) for _ in range(count)]


def _kernels() -> str:
    if importlib.util.find_spec("mlx_lm.kernels.native") is None:
        return "plain MLX"
    from mlx_lm.kernels import native

    return native.describe()


def _weight_bytes(model: Any) -> int:
    """Bytes that a decode step reads: all weights, without the embedding table when the head has its own."""
    from mlx.utils import tree_flatten

    weights: list[tuple[str, Any]] = tree_flatten(model.parameters())  # type: ignore[assignment]
    untied = any("lm_head" in name for name, _ in weights)
    return sum(array.nbytes for name, array in weights if not (untied and "embed_tokens" in name))


def _filled(model: Any, depth: int) -> Any:
    """A prompt cache that holds `depth` random tokens."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([_ids(1)]), cache=cache))
    for layer in cache:  # as if the cache had just grown to hold `depth` tokens and a block of spare rows
        room = depth + 256 - depth % 256
        layer.keys, layer.values = (
            mx.random.normal((*a.shape[:2], room, a.shape[3])).astype(a.dtype) for a in (layer.keys, layer.values)
        )
        layer.offset = depth
    mx.eval([(layer.keys, layer.values) for layer in cache])
    return cache


def _decode(model: Any, depth: int, tokens: int, fill: bool, repeats: int) -> tuple[float, list[float]]:
    """Tokens per second of one sequence, after `depth` tokens, the mean speed of several; and the memory's speeds."""
    from mlx_lm.generate import generate_step

    speeds = []
    reads = _read_speeds()
    for _ in range(repeats):
        ids = mx.array(_ids(1 if fill else depth))
        cache = _filled(model, depth - 1) if fill else None
        steps = generate_step(ids, model, max_tokens=tokens + 1, prompt_cache=cache)
        next(steps)
        start = time.perf_counter()
        count = sum(1 for _ in itertools.islice(steps, tokens))
        speeds.append(count / (time.perf_counter() - start))
        reads += _read_speeds()
    return sum(speeds) / repeats, reads


def _prefill(model: Any, tokens: int, warm: bool, repeats: int) -> float:
    """Tokens per second from a prompt to the first token after it, the mean speed of several; no other logits are
    computed."""
    from mlx_lm.generate import generate_step

    next(generate_step(mx.array(_ids(tokens if warm else 2, seed=1)), model, max_tokens=1))
    speeds = []
    for seed in range(repeats):
        ids = mx.array(_ids(tokens, seed=seed + 2))
        start = time.perf_counter()
        next(generate_step(ids, model, max_tokens=1))
        speeds.append(tokens / (time.perf_counter() - start))
    return sum(speeds) / repeats


def _batch(model: Any, size: int, depth: int, tokens: int, fill: bool) -> float:
    """Tokens per second of all sequences together, while all are decoding."""
    from mlx_lm.generate import BatchGenerator

    # Ours alone has this option; filled caches leave a prompt of one token each, which starts all at once.
    first: dict[str, Any] = {} if fill else {"prefer_prefill_when_pending": True}
    generator = BatchGenerator(model, max_tokens=tokens + size, completion_batch_size=size, **first)
    caches = [_filled(model, depth - 1) for _ in range(size)] if fill else None
    generator.insert([_ids(1 if fill else depth, seed=i) for i in range(size)], caches=caches)
    started: set[int] = set()
    while len(started) < size:
        started |= {r.uid for r in generator.next_generated()}
    count, start = 0, time.perf_counter()
    while count < size * tokens:
        results = generator.next_generated()
        count += len(results)
        if len(results) < size:
            break
    seconds = time.perf_counter() - start
    generator.close()
    return count / seconds


def _read_speeds() -> list[float]:
    """Gigabytes per second of three parallel reads of 256 MB; none without the native kernels."""
    if _kernels() == "plain MLX":
        return []
    from mlx_lm.kernels import native

    module = native.extension()
    return [] if module is None else [module.read_bandwidth(1 << 28) / 1e9 for _ in range(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("measure", choices=["decode", "prefill", "batch"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--fill", action="store_true")
    parser.add_argument("--no-warm", action="store_true")
    args = parser.parse_args()
    found: dict[str, Any] = {"kernels": _kernels()}
    from mlx_lm import load

    model = load(args.model)[0]
    found["weight_bytes"] = _weight_bytes(model)
    if args.measure == "decode":
        found["value"], found["reads"] = _decode(model, args.depth, args.tokens, args.fill, args.repeats)
    elif args.measure == "prefill":
        found["value"] = _prefill(model, args.tokens, not args.no_warm, args.repeats)
    else:
        speeds = [_batch(model, args.size, args.depth, args.tokens, args.fill) for _ in range(args.repeats)]
        found["value"] = sum(speeds) / len(speeds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
