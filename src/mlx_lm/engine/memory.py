"""Warns, through logging, when MLX holds much memory. Nothing is ever freed or refused here; see `admission`."""

import logging
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..errors import RequestError
from .admission import device_memory

__all__ = ["MemoryWatch"]

_log = logging.getLogger(__name__)
_NAMES = (("high", logging.WARNING), ("very high", logging.ERROR), ("critical", logging.CRITICAL))
_SHARES = (0.8, 0.9, 0.95)
_EVERY = 16  # steps between two looks; one takes a microsecond
_BACK = 0.95  # a level is left, and may be reported again, below this share of it


class MemoryWatch:
    """Reports each level once when the memory in use passes it, again only after it fell well below.

    Args:
        levels: bytes of "high", "very high" and "critical", rising; None is 80, 90 and 95 % of the device's memory.
        read: gives the bytes in use.
    """

    def __init__(self, levels: Sequence[int] | None = None, read: Callable[[], int] = mx.get_active_memory):
        if levels is None:
            total = device_memory()
            levels = [int(share * total) for share in _SHARES]
        if len(levels) != len(_NAMES) or list(levels) != sorted(levels) or levels[0] <= 0:
            raise RequestError(f"Memory levels are three rising numbers of bytes, not {levels!r}.")
        self.levels = tuple(levels)
        self._read = read
        self._reported = 0  # levels
        self._steps = 0

    def step(self) -> None:
        """To be called once a step; looks at the memory every now and then."""
        self._steps += 1
        if self._steps % _EVERY == 1:
            self.look()

    def look(self) -> None:
        """Looks at the memory now."""
        used = self._read()
        _log.debug("MLX memory: %.2f GB", used / 1e9)
        while self._reported and used < _BACK * self.levels[self._reported - 1]:
            self._reported -= 1
        passed = sum(used >= level for level in self.levels)
        if passed > self._reported:
            name, severity = _NAMES[passed - 1]
            _log.log(
                severity, "MLX memory is %s: %.2f GB (level %.2f GB)", name, used / 1e9, self.levels[passed - 1] / 1e9
            )
            self._reported = passed
