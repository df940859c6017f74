"""Weights of linear, expert and embedding layers in the layout that the native kernels stream fastest.

`interleave_weights` regroups a layer's weights once; the plain arrays become lazy inverses, which cost nothing unless
somebody asks for them (saving, training), and become lazy again at the layer's next use after that, so memory is not
doubled for long. Layers ask `interleaved` before every product. Copies of a layer start without regrouped weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..kernels import fused, native
from ..kernels.linear import can_interleave, deinterleave, interleave

__all__ = ["Interleaved", "interleave_weights", "interleaved", "packing", "prefer_large_pages"]

_NAMES = ("weight", "scales", "biases")


@dataclass(frozen=True, eq=False)
class Interleaved:
    """The regrouped arrays of one layer, and the arrays of the layer that they stand for (with marks of their content,
    because arrays can be updated in place)."""

    plain: tuple[mx.array, ...]
    marks: tuple[Any, ...]
    parts: tuple[mx.array, ...]
    packing: dict[str, Any]

    def stands_for(self, module: nn.Module) -> bool:
        """Whether the layer still has the arrays that were regrouped."""
        held = [module[name] for name in _NAMES if name in module]
        each = zip(held, self.plain, self.marks, strict=False)
        return len(held) == len(self.plain) and all(a is b and mark.same(a) for a, b, mark in each)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return type(None), ()

    def __deepcopy__(self, _: Any) -> None:
        return None

    def product(self, x: mx.array) -> mx.array:
        """x (..., D) -> (..., V)."""
        if len(self.parts) == 1:
            return kernels.matmul(x, self.parts[0], interleaved=True)
        return kernels.quantized_matmul(x, *self.parts, **self.packing, interleaved=True)

    def gathered(self, x: mx.array, indices: mx.array) -> mx.array:
        """x (..., M, K) through the experts of indices (...) -> (..., M, N)."""
        if len(self.parts) == 1:
            return kernels.gather_matmul(x, self.parts[0], indices, interleaved=True)
        w, scales, *rest = self.parts
        options = {**self.packing, "interleaved": True}
        return kernels.gather_quantized_matmul(x, w, scales, rest[0] if rest else None, indices, **options)

    def rows(self, ids: mx.array, dtype: mx.Dtype | None) -> mx.array:
        """Rows (..., D) of the matrix."""
        return kernels.embedding_rows(ids, *self.parts, **self.packing, interleaved=True, dtype=dtype)


def packing(layer: Any) -> dict[str, Any]:
    """How a layer's weights are packed, as the kernels' options."""
    return {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}


def interleaved(module: nn.Module) -> Interleaved | None:
    """The layer's regrouped weights, or None: it has none, its own were replaced, or the device does not take them."""
    found = module.__dict__.get("interleaved")
    if found is None or native.extension() is None:
        return None
    if not found.stands_for(module):
        module.interleaved = None
        return None
    if any(mark.evaluated() for mark in found.marks):
        found = _install(module, found.parts)
    return found


def interleave_weights(module: nn.Module) -> Interleaved | None:
    """Regroups the weights of a layer where that is possible; None where it is not."""
    if (found := interleaved(module)) is not None:
        return found
    arrays = [module[name] for name in _NAMES if name in module]
    if not arrays or not can_interleave(arrays[0]) or any(fused.traced(a) for a in arrays):
        return None
    parts = tuple(interleave(a, dense=len(arrays) == 1) for a in arrays)
    mx.eval(parts)
    return _install(module, parts)


def prefer_large_pages(modules: Iterable[nn.Module]) -> None:
    """Asks the system to gather the modules' regrouped weights, in time, into pages that are found faster."""
    parts = [p for m in modules if (found := m.__dict__.get("interleaved")) is not None for p in found.parts]
    if (module := native.extension()) is not None:
        module.large_pages_later(parts)


def _install(module: nn.Module, parts: tuple[mx.array, ...]) -> Interleaved:
    """Makes the layer's own arrays lazy inverses of `parts`."""
    plain = tuple(deinterleave(p, dense=len(parts) == 1) for p in parts)
    for name, array in zip([n for n in _NAMES if n in module], plain, strict=True):
        module[name] = array
    marks = tuple(fused.mark(p) for p in plain)
    module.interleaved = Interleaved(plain, marks, parts, packing(module) if len(parts) > 1 else {})
    return module.interleaved
