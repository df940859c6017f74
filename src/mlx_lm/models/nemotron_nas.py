"""Nemotron NAS (Puzzle): Llama of which a search left out, narrowed or replaced parts, layer by layer.

Source: https://arxiv.org/abs/2411.19146.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Linear
from ..state import LayerState, NoSpec, StateSpec
from .parts import DenseModel, LlamaArgs, Rename, refuse

_NOT_SUPPORTED = (
    "num_sink_tokens", "sparsify", "unshifted_sink", "use_prefill_window_in_sink_attention", "window_length",
)  # fmt: skip


class ModelArgs(LlamaArgs):
    per_layer = {"block_configs": ()}
    block_configs: list[Any]
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    max_position_embeddings: int = 131072

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, block in enumerate(self.block_configs):
            parts = [block.get(name) for name in ("attention", "ffn")] if isinstance(block, dict) else [None]
            complete = all(isinstance(part, dict) for part in parts)
            refuse(not complete, f"block_configs[{i}] must have 'attention' and 'ffn'")
            for name in _NOT_SUPPORTED:
                refuse(any(part.get(name) for part in parts), f"{name} in block_configs[{i}] is not supported")
            share, wide = parts[0].get("n_heads_in_group"), parts[1].get("ffn_mult")
            shares = isinstance(share, int) and share > 0 and self.num_attention_heads % share == 0
            widens = isinstance(wide, int | float) and wide > 0
            wrong = not shares and self.kind("attention", i) == "full"
            refuse(wrong, f"n_heads_in_group={share!r} in block_configs[{i}] is not possible")
            wrong = not widens and self.kind("ffn", i) == "full"
            refuse(wrong, f"ffn_mult={wide!r} in block_configs[{i}] is not possible")

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        heads, _, size = self.heads
        return heads, heads // self.block_configs[index]["attention"]["n_heads_in_group"], size

    def layer_width(self, index: int) -> int:
        size = int(2 * self.block_configs[index]["ffn"]["ffn_mult"] * self.hidden_size / 3)
        return -(-size // 256) * 256

    def kind(self, part: str, index: int) -> str:
        """What layer `index` has for "attention" or "ffn": "none", "linear" or "full"."""
        block = self.block_configs[index][part]
        return "none" if block.get("no_op") else "linear" if block.get("replace_with_linear") else "full"


class LinearPart(nn.Module):
    """One matrix in place of attention or feed-forward."""

    def __init__(self, size: int):
        super().__init__()
        self.linear = Linear(size, size, bias=False)

    def state_spec(self) -> StateSpec:
        return NoSpec()

    def __call__(self, x: mx.array, state: LayerState = None) -> mx.array:
        return self.linear(x)


class Model(DenseModel):
    rules = (Rename(r"\.(self_attn|mlp)\.linear_(?:attn|mlp)\.", r".\1.linear."),)

    def mixer(self, args: Any, index: int) -> nn.Module | None:
        if (kind := args.kind("attention", index)) != "full":
            return LinearPart(args.hidden_size) if kind == "linear" else None
        return super().mixer(args, index)

    def feed_forward(self, args: Any, index: int) -> nn.Module | None:
        if (kind := args.kind("ffn", index)) != "full":
            return LinearPart(args.hidden_size) if kind == "linear" else None
        return super().feed_forward(args, index)
