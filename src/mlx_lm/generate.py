"""Where mlx-lm's users import generation from; `python -m mlx_lm.generate` is the command."""

if __name__ == "__main__":  # first, so that the command's help does not wait for MLX
    from mlx_lm.cli.generate import main

    raise SystemExit(main())

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .engine import (
    BatchGenerator,
    StopSequences,
    apply_kv_options,
    auto_speculative_generate_step,
    batch_generate,
    generate,
    generate_step,
    kv_options,
    mtp_generate_step,
    prompt_lookup_generate_step,
    speculative_generate_step,
    stream_generate,
)
from .sampling import make_logits_processors, make_sampler
from .types import BatchResponse, BatchStats, GenerationResponse

__all__ = [
    "BatchGenerator",
    "BatchResponse",
    "BatchStats",
    "GenerationResponse",
    "StopSequences",
    "auto_speculative_generate_step",
    "batch_generate",
    "generate",
    "generate_step",
    "generation_stream",
    "make_logits_processors",
    "make_sampler",
    "maybe_quantize_kv_cache",
    "mtp_generate_step",
    "prompt_lookup_generate_step",
    "speculative_generate_step",
    "stream_generate",
    "wired_limit",
]

generation_stream = mx.new_thread_local_stream(mx.default_device())


@contextmanager
def wired_limit(model: nn.Module, streams: Sequence[Any] | None = None) -> Iterator[None]:
    """Raises Metal's wired-memory limit to the recommended working set inside the block; does nothing elsewhere.

    Only a caller who asks for it gets it: some macOS versions have crashed under it
    (https://github.com/ml-explore/mlx/issues/3186).
    """
    if not mx.metal.is_available():
        yield
        return
    old = mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    try:
        yield
    finally:
        for stream in streams or [mx.default_stream(mx.default_device())]:
            mx.synchronize(stream)
        mx.set_wired_limit(old)


def maybe_quantize_kv_cache(
    prompt_cache: list[Any], quantized_kv_start: int, kv_group_size: int, kv_bits: int | None
) -> None:
    """Packs a prompt cache's attention states to `kv_bits` once they hold more than `quantized_kv_start` tokens."""
    apply_kv_options(prompt_cache, kv_options(kv_bits, kv_group_size, quantized_kv_start))
