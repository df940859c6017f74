"""Prism's Bonsai 2: Qwen3.5 whose packed layers keep their weights in a basis that signs and a Hadamard matrix turn.

Source: https://huggingface.co/prism-ml/Ternary-Bonsai-2-27B-mlx-2bit.
"""

from dataclasses import field
from typing import Any

import mlx.core as mx
from mlx import nn

from ..errors import ConfigError
from ..nn import Embedding, Linear, QuantizedEmbedding, QuantizedLinear
from . import qwen3_5_text
from .multimodal import TextTower


class ModelArgs(qwen3_5_text.ModelArgs):
    modules: list[Any] = field(default_factory=list)
    components: dict[str, Any] | None = None
    gdn_activation_layout: str = "grouped"
    schema_version: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gdn_activation_layout != "grouped" or self.schema_version not in (1, 2):
            raise ConfigError("config.json: this gdn_activation_layout or schema_version is not supported.")
        if (self.components or {}).get("mtp"):
            raise ConfigError("config.json: components.mtp is not supported for model type 'prism_hadamard_qwen35'.")
        for record in self.modules:
            known = isinstance(record, dict) and isinstance(record.get("path"), str)
            block = record.get("block") if known else None
            if not isinstance(block, int) or isinstance(block, bool) or block < 0 or block & (block - 1):
                raise ConfigError(
                    f"config.json: modules must have a path, and a power of two as block, not {record!r}."
                )


def turned(x: mx.array, signs: mx.array, block: int, *, back: bool = False) -> mx.array:
    """Each block of features of x (..., D), times its signs and then the normalized Hadamard matrix; or `back`."""
    y = x.astype(mx.float32)
    y = y if back else y * signs
    y = mx.hadamard_transform(mx.unflatten(y, -1, (-1, block))).flatten(-2)
    return (y * signs if back else y).astype(x.dtype)


class _Turning(nn.Module):
    """Signs beside a layer's weights; a block of 0 turns nothing."""

    def set_turn(self, width: int, block: int, signs: mx.array | None = None) -> None:
        self._block = block
        self.signs = mx.ones((width,)) if signs is None else signs
        self.freeze(keys=["signs"], recurse=False)

    def turned(self, x: mx.array, *, back: bool = False) -> mx.array:
        return turned(x, self.signs, self._block, back=back) if self._block else x


class TurnedQuantizedLinear(QuantizedLinear, _Turning):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(self.turned(x))


class TurnedLinear(Linear, _Turning):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(self.turned(x))

    def to_quantized(self, *args: Any, **options: Any) -> QuantizedLinear:
        packed = super().to_quantized(*args, **options)
        packed.__class__ = TurnedQuantizedLinear
        packed.set_turn(self.signs.shape[0], self._block, self.signs)
        return packed


class TurnedQuantizedEmbedding(QuantizedEmbedding, _Turning):
    def __call__(self, x: mx.array) -> mx.array:
        return self.turned(super().__call__(x), back=True)

    def as_linear(self, x: mx.array) -> mx.array:
        return super().as_linear(self.turned(x))


class TurnedEmbedding(Embedding, _Turning):
    def __call__(self, x: mx.array) -> mx.array:
        return self.turned(super().__call__(x), back=True)

    def as_linear(self, x: mx.array) -> mx.array:
        return super().as_linear(self.turned(x))

    def to_quantized(self, *args: Any, **options: Any) -> QuantizedEmbedding:
        packed = super().to_quantized(*args, **options)
        packed.__class__ = TurnedQuantizedEmbedding
        packed.set_turn(self.signs.shape[0], self._block, self.signs)
        return packed


class TextModel(qwen3_5_text.Model):
    def __init__(self, args: ModelArgs):
        super().__init__(args)
        for record in args.modules:
            self._turn(record["path"], record["block"])

    def _turn(self, path: str, block: int) -> None:
        """Makes the layer at `path` a turned one."""
        found = dict(self.named_modules()).get(path)
        kind = {Linear: TurnedLinear, Embedding: TurnedEmbedding}.get(type(found))
        width = found.weight.shape[-1] if found is not None and kind is not None else 0
        if found is None or kind is None or (block and width % block):
            raise ConfigError(f"config.json: modules has {path!r} with block {block}, which fits no layer.")
        found.__class__ = kind
        found.set_turn(width, block)


class Model(TextTower):
    text_model = TextModel
