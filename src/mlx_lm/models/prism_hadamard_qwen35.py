"""Prism's Bonsai 2: Qwen3.5 whose packed layers keep their weights in a basis that signs and a Hadamard matrix turn.

Source: https://huggingface.co/prism-ml/Ternary-Bonsai-2-27B-mlx-2bit.
"""

from dataclasses import field
from typing import Any

import mlx.core as mx
from mlx import nn

from ..nn import Embedding, Linear, QuantizedEmbedding, QuantizedLinear
from . import qwen3_5_text
from .parts import TextTower, refuse


class ModelArgs(qwen3_5_text.ModelArgs):
    fixed = {"gdn_activation_layout": ("grouped",), "schema_version": (1, 2)}
    modules: list[Any] = field(default_factory=list)
    components: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        mtp = (self.components or {}).get("mtp")
        refuse(mtp, "components.mtp is not supported for model type 'prism_hadamard_qwen35'")
        for record in self.modules:
            known = isinstance(record, dict) and isinstance(record.get("path"), str)
            block = record.get("block") if known else None
            whole = isinstance(block, int) and not isinstance(block, bool) and block >= 0 and not block & (block - 1)
            refuse(not whole, f"modules must have a path, and a power of two as block, not {record!r}")


class _Turning(nn.Module):
    """A layer that reads each block of features times its signs and then the normalized Hadamard matrix.

    A block of 0 turns nothing.
    """

    def turned(self, x: mx.array, *, back: bool = False) -> mx.array:
        """x (..., D) in the weights' basis, or `back`."""
        if not self._block:
            return x
        y = x.astype(mx.float32)
        y = y if back else y * self["signs"]
        y = mx.hadamard_transform(mx.unflatten(y, -1, (-1, self._block))).flatten(-2)
        return (y * self["signs"] if back else y).astype(x.dtype)

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(self.turned(x))

    def to_quantized(self, *args: Any, **options: Any) -> nn.Module:
        return turn(super().to_quantized(*args, **options), self._block, self.signs)  # type: ignore[misc]


class _TurningEmbedding(_Turning):
    """An embedding whose rows are turned back; as an output head, it reads like other layers."""

    def __call__(self, x: mx.array) -> mx.array:
        return self.turned(super(_Turning, self).__call__(x), back=True)

    def as_linear(self, x: mx.array) -> mx.array:
        return super().as_linear(self.turned(x))  # type: ignore[misc]


_KINDS = {
    plain: type(f"Turned{plain.__name__}", (turning, plain), {})
    for turning, kinds in ((_Turning, (Linear, QuantizedLinear)), (_TurningEmbedding, (Embedding, QuantizedEmbedding)))
    for plain in kinds
}


def turn(layer: Any, block: int, signs: mx.array) -> nn.Module:
    """The layer, which becomes one that turns what it reads."""
    layer.__class__ = _KINDS[type(layer)]
    layer._block, layer.signs = block, signs
    return layer.freeze(keys=["signs"], recurse=False)


class TextModel(qwen3_5_text.Model):
    def __init__(self, args: ModelArgs):
        super().__init__(args)
        for record in args.modules:
            self._turn(record["path"], record["block"])

    def _turn(self, path: str, block: int) -> None:
        """Makes the layer at `path` a turned one."""
        found: Any = dict(self.named_modules()).get(path)
        width = found.weight.shape[-1] if type(found) in (Linear, Embedding) else 0
        refuse(not width or (block and width % block), f"modules has {path!r} with block {block}, which fits no layer")
        turn(found, block, mx.ones((width,)))


class Model(TextTower):
    text_model = TextModel
