"""Prefill and decode speed of the fused layers on a SmolLM2-135M-shaped model with random weights.

    python benchmarks/kernels_attention.py [--bits 4] [--group 32] [--prompt 512] [--tokens 64] [--batch 1] [--repeat 3]

Prints medians: prefill tokens/s (last position's logits only), decode tokens/s after the prompt, for both accuracy
modes where the machine has them.
"""

import argparse
import statistics
import time

import mlx.core as mx
from mlx import nn

from mlx_lm.kernels import native
from mlx_lm.models.build import build_model

SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
}


def make_model(bits: int, group: int, dtype: str) -> nn.Module:
    """The model, quantized when `bits` is not 0."""
    mx.random.seed(0)
    model = build_model(SMOLLM2)
    model.set_dtype(getattr(mx, dtype))
    if bits:
        nn.quantize(model, group_size=group, bits=bits)
    mx.eval(model.parameters())
    return model


def measure(model: nn.Module, prompt: int, tokens: int, batch: int) -> tuple[float, float]:
    """Prefill and decode rates, tokens/s over all rows."""
    ids = mx.random.randint(0, 40000, (1, prompt))
    caches = []
    start = time.perf_counter()
    for _ in range(batch):
        cache = model.make_cache()
        logits = model.logits(model.hidden(ids, cache)[:, -1:])
        token = mx.argmax(logits, axis=-1)
        mx.eval(token)
        caches.append(cache)
    prefill = batch * prompt / (time.perf_counter() - start)
    state = caches[0] if batch == 1 else [[c[i] for c in caches] for i in range(len(caches[0]))]
    token = mx.broadcast_to(token, (batch, 1))
    start = time.perf_counter()
    for _ in range(tokens):
        token = mx.argmax(model(token, state), axis=-1)
        mx.eval(token)
    return prefill, batch * tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    model = make_model(options.bits, options.group, options.dtype)
    modes = ["exact"] if native.extension() is None else ["exact", "int8"]
    results: dict[str, list[tuple[float, float]]] = {mode: [] for mode in modes}
    for mode in modes:
        native.set_activations(mode)
        measure(model, 32, 4, 1)  # warm up: plans, caches, threads
    for _ in range(options.repeat):
        for mode in modes:
            native.set_activations(mode)
            results[mode].append(measure(model, options.prompt, options.tokens, options.batch))
    print(native.describe().rsplit(",", 1)[0], f"bits {options.bits} group {options.group} batch {options.batch}")
    for mode, pairs in results.items():
        prefill, decode = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        best = tuple(max(p[i] for p in pairs) for i in (0, 1))
        print(f"{mode:6} prefill {prefill:7.0f} (best {best[0]:.0f})  decode {decode:7.1f} (best {best[1]:.1f}) tok/s")


if __name__ == "__main__":
    main()
