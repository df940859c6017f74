"""Lets the token masks of outlines_core and llguidance work where there is no Metal, so that Outlines runs unmodified.

Both libraries apply a token bitmask to MLX logits with a Metal kernel alone, which fails on CPUs and on CUDA. `install`
waits for their modules: when one of them is imported, its kernel is tried on one row, and only where that fails it is
replaced by plain MLX operations, for this process. A library that needs no help keeps its own kernel.

Costs nothing while these modules are not imported: this file itself imports neither MLX nor the libraries.
To be removed when both libraries have kernels for every device.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder

    import mlx.core as mx
else:  # importing importlib.abc takes as long as the rest of mlx_lm, and Python asks for methods, not for classes
    Loader = MetaPathFinder = object

__all__ = ["TARGETS", "apply_bitmask", "install"]

TARGETS = MappingProxyType(  # module: its kernel (logits (B, V), mask int32 (B, W)) -> logits (B, V)
    {
        "outlines_core.kernels.mlx": "_apply_token_bitmask_kernel",
        "llguidance.mlx": "apply_token_bitmask_kernel",
    }
)


def apply_bitmask(data: "mx.array", mask: "mx.array") -> "mx.array":
    """Logits (B, V) with -inf for every token whose bit is not set, or that lies past the mask.

    Args:
        mask: int32 (B, W); bit i % 32 of word i // 32 is token i.
    """
    import mlx.core as mx

    octets = mask.view(mx.uint8)  # (B, 4 W): a quarter of the work of 32-bit words
    bits = octets[..., None] & mx.left_shift(mx.array(1, mx.uint8), mx.arange(8, dtype=mx.uint8))
    allowed = bits.reshape(mask.shape[0], -1)[:, : data.shape[1]].astype(mx.bool_)
    missing = data.shape[1] - allowed.shape[1]
    if missing > 0:
        allowed = mx.pad(allowed, [(0, 0), (0, missing)])
    return mx.where(allowed, data, mx.array(-mx.inf, data.dtype))


def install() -> None:
    """Mends the target modules that are imported already, and each of the others when it is imported."""
    for name in TARGETS:
        module = sys.modules.get(name)
        if module is not None:
            _mend(module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _mend(module: ModuleType) -> None:
    name = TARGETS[module.__name__]
    kernel = getattr(module, name, None)
    if callable(kernel) and not _works(kernel):
        setattr(module, name, apply_bitmask)


def _works(kernel: Callable[..., Any]) -> bool:
    import mlx.core as mx

    try:
        mx.eval(kernel(mx.zeros((1, 32)), mx.full((1, 1), -1, mx.int32)))
    except (RuntimeError, ValueError):  # no Metal; the default device is not a GPU
        return False
    return True


class _Finder(MetaPathFinder):
    """Finds the target modules as Python does, with a loader that mends them afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in TARGETS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Another loader, and then `_mend`."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:  # source, file name, resources: for inspect, pickle, importlib.resources
        return getattr(self._inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        _mend(module)
