"""How keys and values are kept, under the names of the commands and the Python API; loads nothing of the engine."""

from collections.abc import Sequence

from ..errors import RequestError
from ..state import AttentionState, CacheList, KVOptions, State

__all__ = ["apply_kv_options", "kv_options"]


def kv_options(
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 0,
    max_kv_size: int | None = None,
) -> KVOptions:
    """`KVOptions` from the names that the commands use; RequestError for values that cannot work."""
    if kv_bits is not None and kv_bits not in (2, 3, 4, 5, 6, 8):
        raise RequestError(f"kv_bits must be 2, 3, 4, 5, 6 or 8, not {kv_bits!r}.")
    if kv_group_size not in (32, 64, 128):
        raise RequestError(f"kv_group_size must be 32, 64 or 128, not {kv_group_size!r}.")
    if max_kv_size is not None and max_kv_size < 8:
        raise RequestError(f"max_kv_size must be at least 8 tokens, not {max_kv_size!r}.")
    return KVOptions(kv_bits, kv_group_size, quantized_kv_start, max_kv_size)


def apply_kv_options(states: Sequence[State], options: KVOptions) -> None:
    """Lets states that exist already be packed from now on, as `options` say."""
    if options.bits is None:
        return
    for state in states:
        if isinstance(state, CacheList):
            apply_kv_options(state.caches, options)
        elif isinstance(state, AttentionState):
            state.quantize_after(options.bits, options.group_size, options.start)
