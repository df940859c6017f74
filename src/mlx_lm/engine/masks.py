"""A grammar's token masks on logits. The masks come as bits from the CPU; what is beyond them is forbidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from ..grammar import TokenMask

__all__ = ["mask_logits"]


def mask_logits(logits: mx.array, masks: Sequence[TokenMask]) -> mx.array:
    """Logits (B, V) with one mask for each row: what it forbids is -inf.

    The bits are unpacked on the CPU, where that is a table look-up; the rest is one `where` for all rows.
    """
    import numpy as np  # 45 ms, which free text does not need

    width = logits.shape[-1]
    bits = [np.unpackbits(mask.view(np.uint8), bitorder="little", count=width) for mask in masks]  # pads with zeros
    allowed = mx.array(np.stack(bits).view(np.bool_))  # type: ignore[arg-type]
    return mx.where(allowed, logits, mx.array(-mx.inf, logits.dtype))
