"""Loads the native CPU kernels and holds their settings.

Contract: `extension()` gives the compiled module, or None where it is not installed, was built for another MLX or from
other sources than this package's, is disabled (`MLX_LM_NATIVE=0`) or the default device is not the CPU's; every caller
then uses the plain MLX expression. One warning says why when a module is there and cannot be used, and how to build it
again. This module does not know any operation.

Environment, read once when the extension is loaded:
    MLX_LM_NATIVE=0             never use it
    MLX_LM_NUM_THREADS=n        threads (default: physical cores within the affinity mask and the cgroup quota)
    MLX_LM_ISA=name             a lower instruction set than the CPU has, for tests: base, dotprod (aarch64), avx2,
                                avxvnni, avx512, avx512bf16; UnsupportedError when this CPU or build lacks it
    MLX_LM_ACTIVATIONS=int8     accuracy mode of matrix products with quantized weights (default: exact)
"""

import atexit
import functools
import importlib
import os
import warnings
from types import ModuleType

import mlx.core as mx

from ..errors import UnsupportedError

__all__ = [
    "ACTIVATION_MODES",
    "INTERFACE",
    "activations",
    "describe",
    "extension",
    "finish",
    "on_cpu",
    "set_activations",
    "set_mode",
]

ACTIVATION_MODES = ("exact", "int8")
# Number of the interface between this room and the compiled module, into which CMakeLists.txt bakes this very line.
# Raise it whenever a name, a signature, a memory layout or a meaning changes (tests/kernels/test_native.py notices the
# first two).
INTERFACE = 7
_MLX_VERSION = str(vars(mx)["__version__"])
_REBUILD = (
    "Build them again: `scripts/build_native.sh` in a checkout, else `pip install --force-reinstall --no-deps mlx-lm`."
)


@functools.cache
def _load() -> ModuleType | None:
    if os.environ.get("MLX_LM_NATIVE", "1") == "0":
        return None
    try:
        module = importlib.import_module("mlx_lm.kernels._native")
    except ModuleNotFoundError:
        return None
    except ImportError as error:  # undefined symbols: another MLX
        reason: str | None = f"they do not load with mlx {_MLX_VERSION} ({error})"
    else:
        reason = _mismatch(module)
        if reason is None:
            return _configured(module)
    warnings.warn(f"mlx_lm runs without its native CPU kernels: {reason}. {_REBUILD}", stacklevel=2)
    return None


def _mismatch(module: ModuleType) -> str | None:
    """Why the compiled module does not fit this package and the installed MLX; None when it does."""
    built_for = getattr(module, "mlx_version", "an unknown version")
    if built_for != _MLX_VERSION:
        return f"they were built for mlx {built_for} and mlx {_MLX_VERSION} is installed"
    interface = getattr(module, "interface", 0)
    if interface != INTERFACE:
        age = "older" if interface < INTERFACE else "newer"
        return f"they were built from {age} sources (interface {interface}, this package needs {INTERFACE})"
    return None


def _configured(module: ModuleType) -> ModuleType:
    wanted = os.environ.get("MLX_LM_ACTIVATIONS", "exact")
    if wanted not in ACTIVATION_MODES:
        raise UnsupportedError(f"MLX_LM_ACTIVATIONS={wanted!r}: choose one of {', '.join(ACTIVATION_MODES)}.")
    isa = os.environ.get("MLX_LM_ISA") or module.isa()
    if isa not in module.supported_isas():
        raise UnsupportedError(f"MLX_LM_ISA={isa!r}: this CPU and build have {', '.join(module.supported_isas())}.")
    module.set_activations(wanted)
    atexit.register(finish)
    return module


def finish() -> None:
    """Waits for what the calling thread has begun on the CPU; to be called when the process or the thread ends.

    Operations hold Python objects. MLX's thread would let go of them while Python is being taken down, and Python ends
    a thread that asks for its lock then, in the middle of C++ code: the process is aborted.
    """
    mx.synchronize(mx.default_stream(mx.Device(mx.cpu)))


def on_cpu() -> bool:
    """Whether operations run on the CPU when no stream is named."""
    return mx.default_device().type == mx.DeviceType.cpu


def extension() -> ModuleType | None:
    """The native module when it can serve the default device, else None."""
    module = _load()
    return module if module is not None and on_cpu() else None


def activations() -> str:
    """Accuracy mode of quantized products: "exact" (float activations) or "int8" (quantized per 32 or 64 inputs)."""
    module = _load()
    return "exact" if module is None else module.activations()


def set_activations(mode: str) -> None:
    """Sets the accuracy mode for products built from now on; raises UnsupportedError where int8 cannot run."""
    if mode not in ACTIVATION_MODES:
        raise UnsupportedError(f"activations {mode!r}: choose one of {', '.join(ACTIVATION_MODES)}.")
    module = _load()
    if module is not None:
        module.set_activations(mode)
    elif mode != "exact":
        raise UnsupportedError(f"activations {mode!r} needs the native CPU kernels, which are not in use.")


set_mode = set_activations


def describe() -> str:
    """One line for `--verbose` and benchmarks: instruction set, threads, activations; or "plain MLX"."""
    module = extension()
    if module is None:
        return "plain MLX"
    return f"native {module.isa()}, {module.num_threads()} threads, {module.activations()} activations"
