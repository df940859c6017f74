"""Speed of one mixture-of-experts feed-forward: its parts, and the share of the memory's bandwidth that it reaches.

    python benchmarks/kernels_moe.py [--experts 128] [--top-k 8] [--hidden 2048] [--inner 768] [--mode affine]
                                     [--bits 4] [--group 64] [--tokens 1,8,64,512] [--repeat 5]

The default is a layer of Qwen3-30B-A3B. Prints medians in milliseconds: the whole block, the router with its choice,
and the experts alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
from mlx import nn

from mlx_lm.kernels import native
from mlx_lm.nn.interleaved import interleave_weights
from mlx_lm.nn.moe import MoE, Routing, SwitchGLU


def median(function: Callable[[], mx.array], repeat: int) -> float:
    """Milliseconds of one call, after a warm-up."""
    mx.eval(function())
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        mx.eval(function())
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=768)
    parser.add_argument("--mode", default="affine")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--tokens", default="1,8,64,512")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    mx.random.seed(0)
    block = MoE(args.hidden, args.experts, Routing(args.top_k), SwitchGLU(args.hidden, args.inner, args.experts))
    nn.quantize(
        block, args.group, args.bits, mode=args.mode,
        class_predicate=lambda path, m: hasattr(m, "to_quantized") and path != "gate",
    )  # fmt: skip
    mx.eval(block.parameters())
    for module in block.modules():  # as the first step of a model does
        interleave_weights(module)
    bytes_of_expert = sum(a.nbytes for a in block.switch_mlp.gate_proj.parameters().values()) * 3 / args.experts
    print(native.describe(), f"{args.mode} {args.bits} bits, group {args.group}")
    for tokens in map(int, args.tokens.split(",")):
        x = mx.random.normal((1, tokens, args.hidden))
        flat = x[0]
        indices, _ = block.choose(block.gate(flat))
        mx.eval(x, indices)
        visited = len(set(indices.flatten().tolist()))
        whole = median(lambda x=x: block(x), args.repeat)
        choice = median(lambda flat=flat: block.choose(block.gate(flat))[1], args.repeat)
        experts = median(lambda flat=flat, indices=indices: block.switch_mlp(flat, indices), args.repeat)
        rate = visited * bytes_of_expert / experts / 1e6
        print(
            f"{tokens:5} tokens: block {whole:8.2f} ms, router {choice:6.2f}, experts {experts:8.2f} "
            f"({visited} read, {rate:.1f} GB/s, {tokens / whole * 1000:.0f} tokens/s)"
        )


if __name__ == "__main__":
    main()
