"""Token embeddings and output heads in the layout that the native kernels stream fastest.

A vocabulary-sized matrix is the largest single read of a decode step. `interleave_head` regroups it once; the plain
arrays become lazy inverses, which cost nothing unless somebody asks for them (saving, training).
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import fused, native
from ..kernels.linear import can_interleave, deinterleave, interleave, interleaved_rows

__all__ = ["InterleavedHead", "interleave_head"]

_NAMES = ("weight", "scales", "biases")


@dataclass(frozen=True, eq=False)
class InterleavedHead:
    """The regrouped arrays of one matrix, and the arrays of the module that they stand for (with marks of their
    content, because arrays can be updated in place). Copies of a module start without one."""

    plain: tuple[mx.array, ...]
    marks: tuple[Any, ...]
    parts: tuple[mx.array, ...]
    group_size: int
    bits: int
    mode: str

    def stands_for(self, module: nn.Module) -> bool:
        """Whether the module still has the arrays that were regrouped, on a device that takes them."""
        held = [module[name] for name in _NAMES if name in module]
        if native.extension() is None or len(held) != len(self.plain):
            return False
        return all(a is b and m.same(a) for a, b, m in zip(held, self.plain, self.marks, strict=True))

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(None), ()

    def __deepcopy__(self, _: Any) -> None:
        return None

    def product(self, x: mx.array) -> mx.array:
        """x (..., D) -> (..., V)."""
        if len(self.parts) == 1:
            return kernels.matmul(x, self.parts[0], interleaved=True)
        return kernels.quantized_matmul(
            x, *self.parts, group_size=self.group_size, bits=self.bits, mode=self.mode, interleaved=True
        )

    def rows(self, ids: mx.array) -> mx.array:
        """Rows (..., D) of the matrix."""
        if len(self.parts) == 1:
            return interleaved_rows(self.parts[0], ids)
        words, *rest = (interleaved_rows(p, ids, dense=False) for p in self.parts)
        biases = rest[1] if len(rest) > 1 else None
        return mx.dequantize(words, rest[0], biases, self.group_size, self.bits, self.mode)


def interleave_head(module: nn.Module) -> None:
    """Regroups the weights of a linear or embedding layer where that is possible, for `module.interleaved` to serve."""
    parts = [module[name] for name in _NAMES if name in module]
    if not parts or not can_interleave(parts[0]):
        return
    quantized = len(parts) > 1
    packed = [interleave(p, dense=not quantized) for p in parts]
    mx.eval(packed)
    plain = [deinterleave(p, dense=not quantized) for p in packed]
    for name, array in zip([n for n in _NAMES if n in module], plain, strict=True):
        module[name] = array
    group_size, bits = getattr(module, "group_size", 0), getattr(module, "bits", 0)
    marks = tuple(fused.mark(p) for p in plain)
    mode = getattr(module, "mode", "dense")
    module.interleaved = InterleavedHead(tuple(plain), marks, tuple(packed), group_size, bits, mode)
