"""Between MLX arrays and the plain bytes that the disk tier takes and gives."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

__all__ = ["Buffer", "to_array", "to_buffer"]


@dataclass(frozen=True)
class Buffer:
    """One array's bytes as the disk tier takes and gives them; `dtype` as safetensors spells it."""

    dtype: str
    shape: tuple[int, ...]
    data: Any  # anything with the buffer protocol


_NAMES = {  # dtype -> its name, and the numpy type that holds its bits
    mx.float32: ("F32", "float32"),
    mx.float16: ("F16", "float16"),
    mx.bfloat16: ("BF16", "uint16"),
    mx.uint32: ("U32", "uint32"),
    mx.int32: ("I32", "int32"),
    mx.uint8: ("U8", "uint8"),
}
_DTYPES = {name: (dtype, plain) for dtype, (name, plain) in _NAMES.items()}


def to_buffer(array: mx.array) -> Buffer:
    """The evaluated array's bytes, not copied; numpy has no bfloat16, so its bits go as uint16."""
    import numpy as np  # 45 ms, which a single answer does not need

    name, _ = _NAMES[array.dtype]
    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return Buffer(name, tuple(array.shape), np.array(plain, copy=False).reshape(-1).view(np.uint8).data)


def to_array(buffer: Any) -> mx.array:
    """The inverse: an array of its own. Raises KeyError or ValueError for content that does not fit."""
    import numpy as np

    dtype, plain = _DTYPES[buffer.dtype]
    array = mx.array(np.frombuffer(buffer.data, plain).reshape(buffer.shape))
    return array.view(mx.bfloat16) if dtype == mx.bfloat16 else array
