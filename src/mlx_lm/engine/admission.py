"""Who may start: predicted bytes of sequences' states against a budget.

The prediction comes from the layers' own declarations. A sequence reserves what its prompt and its limit need; one
without a limit reserves ahead in steps, and ends at the budget as it would at the context's end.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..errors import MemoryBudgetError
from ..nn.parameters import flat_parameters
from ..state import KVOptions, StateSpec

__all__ = ["Admission", "default_budget", "device_memory", "predicted_bytes"]

STEP_TOKENS = 256  # what an unlimited sequence reserves ahead


def predicted_bytes(specs: Sequence[StateSpec], tokens: int, dtype: mx.Dtype, options: KVOptions) -> int:
    """Bytes of one sequence's states after `tokens` tokens."""
    return sum(spec.bytes(tokens, dtype, options) for spec in specs)


def default_budget(model: nn.Module) -> int:
    """Bytes for states on this device: four fifths of its memory less the weights, at least 256 MiB."""
    weights = sum(p.nbytes for _, p in flat_parameters(model))
    return max(int(0.8 * device_memory()) - weights, 256 << 20)


def device_memory() -> int:
    """Bytes that this process may use: the GPU's working set, or the machine's memory within its cgroup."""
    if mx.default_device().type == mx.DeviceType.gpu:
        info = mx.device_info()
        known = info.get("max_recommended_working_set_size") or info.get("memory_size") or info.get("total_memory")
        if known:
            return int(known)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # no cgroup, or "max"
            continue
    return total


@dataclass
class Admission:
    """Counts reserved bytes against `budget` (None: no limit)."""

    budget: int | None
    reserved: int = 0

    def require(self, needed: int) -> None:
        """Raises MemoryBudgetError if `needed` bytes can never fit."""
        if self.budget is not None and needed > self.budget:
            raise MemoryBudgetError(needed, self.budget)

    def reserve(self, needed: int) -> bool:
        """Takes `needed` more bytes if they fit now."""
        if self.budget is not None and self.reserved + needed > self.budget:
            return False
        self.reserved += needed
        return True

    def release(self, reserved: int) -> None:
        """Gives bytes back."""
        self.reserved -= reserved

    def check(self, reservations: Sequence[int]) -> None:
        """Raises AssertionError unless `reservations` add up."""
        assert self.reserved == sum(reservations), "reserved bytes do not add up"
