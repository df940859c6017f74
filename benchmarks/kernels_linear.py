"""Speed of the matrix product kernels: GB/s of weights and GOP/s for every shape of a decode step and a prefill.

    PYTHONPATH=src python benchmarks/kernels_linear.py [--model smollm2|qwen] [--rows 1,8,512] [--plain] [--bits 4]

Per row: median of interleaved rounds over enough copies of the weight that a step streams from DRAM (decode), time
per product, GB/s over the bytes of words, scales and biases, and GOP/s (2 * rows * n * k). `read` is the bandwidth
of a parallel read of 1 GB on this machine, the ceiling of a decode step. Rounds of all variants are interleaved, so
ratios hold on a noisy machine.
"""

import argparse
import statistics
import time

import mlx.core as mx

from mlx_lm.kernels import native

SHAPES = {
    "smollm2": {"qkv": (960, 576), "o": (576, 576), "gate_up": (3072, 576), "down": (576, 1536), "head": (49152, 576)},
    "qwen": {"qkv": (2048, 1536), "o": (1536, 1536), "gate_up": (17920, 1536), "down": (1536, 8960)},
}


def variants(ext, bits: int, group: int, plain: bool):
    """Name -> function(x, packed) for every implementation compared."""

    def run(mode: str, interleaved: bool):
        def product(x, p):
            ext.set_activations(mode)
            w, s, b = p["interleaved" if interleaved else "rows"]
            return ext.quantized_matmul(x, w, s, b, group, bits, "affine", True, interleaved)

        return product

    found = {
        "exact/rows": run("exact", False),
        "exact/inter": run("exact", True),
        "int8/rows": run("int8", False),
        "int8/inter": run("int8", True),
    }
    if plain:
        found["mlx"] = lambda x, p: mx.quantized_matmul(x, *p["rows"], group_size=group, bits=bits)
    return found


def pack(ext, n: int, k: int, bits: int, group: int):
    words = mx.random.randint(0, 2**31 - 1, (n, k * bits // 32)).astype(mx.uint32)
    scales = (mx.random.uniform(shape=(n, k // group)) * 0.01).astype(mx.bfloat16)
    rows = (words, scales, -8 * scales)
    mixed = tuple(ext.interleave(a) for a in rows)
    mx.eval(rows, mixed)
    return {"rows": rows, "interleaved": mixed, "bytes": sum(a.nbytes for a in rows)}


def read_bandwidth(ext) -> float:
    return max(ext.read_bandwidth(1 << 30) for _ in range(5)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="smollm2")
    parser.add_argument("--rows", default="1,8,512")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plain", action="store_true", help="also MLX's own operation (slow)")
    options = parser.parse_args()
    ext = native.extension()
    if ext is None:
        raise SystemExit("the native kernels are not in use")
    print(f"{native.describe()}; read {read_bandwidth(ext):.1f} GB/s")
    print(f"{'shape':10}{'rows':>5}  {'variant':12}{'us':>9}{'GB/s':>8}{'GOP/s':>8}")
    for name, (n, k) in SHAPES[options.model].items():
        size = n * k * options.bits / 8
        for rows in map(int, options.rows.split(",")):
            # enough weight to leave the caches in a decode step
            copies = max(1, int(96e6 / size)) if rows <= 16 else 2
            packed = [pack(ext, n, k, options.bits, options.group) for _ in range(copies)]
            x = mx.random.normal((rows, k))
            mx.eval(x)
            times: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                for label, product in variants(ext, options.bits, options.group, options.plain).items():
                    start = time.perf_counter()
                    mx.eval([product(x, p) for p in packed])
                    times.setdefault(label, []).append((time.perf_counter() - start) / copies)
            for label, samples in times.items():
                t = statistics.median(samples)
                print(
                    f"{name:10}{rows:5}  {label:12}{t * 1e6:9.1f}{packed[0]['bytes'] / t / 1e9:8.1f}"
                    f"{2 * rows * n * k / t / 1e9:8.1f}"
                )


if __name__ == "__main__":
    main()
