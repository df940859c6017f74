"""Memory that is gathered into large pages keeps its content, whatever happens to it meanwhile."""

import ctypes
import mmap
import os
import time
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_lm.kernels import native

EXT = native.extension()
pytestmark = pytest.mark.skipif(EXT is None, reason="the native kernels are not installed")
MEGABYTE = 2**20


def _in_large_pages() -> int:
    """Bytes of this process, or -1 where the system does not say."""
    rollup = Path("/proc/self/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages")), -1)


def _can_be_moved() -> bool:
    """Whether the system moves written memory into a large page on demand."""
    with mmap.mmap(-1, 6 * MEGABYTE) as memory:
        memory.write(b"x" * len(memory))
        start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % (2 * MEGABYTE)
        try:
            memory.madvise(25, start, 2 * MEGABYTE)  # MADV_COLLAPSE
        except (OSError, ValueError):
            return False
        return True


def _made(count: int, megabytes: float) -> list[mx.array]:
    arrays = [mx.arange(int(megabytes * MEGABYTE) // 4) * (i + 1) for i in range(count)]
    mx.eval(arrays)
    return arrays


def test_content_stays():
    assert EXT is not None
    arrays, expected = _made(20, 0.4) + _made(2, 9), _made(20, 0.4) + _made(2, 9)
    before, moves = _in_large_pages(), _can_be_moved()
    EXT.large_pages_later([*arrays, mx.ones((4,)) + 1])  # small ones and what is not computed yet are left alone
    until, moved = time.monotonic() + 10, False
    while time.monotonic() < until and not moved:
        assert all(mx.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
        moved = _in_large_pages() >= before + 8 * MEGABYTE
        time.sleep(0.05)
    assert moved or before < 0 or not moves
    assert all(mx.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))


def test_memory_may_be_freed_meanwhile():
    assert EXT is not None
    for _ in range(30):
        arrays = _made(3, 5)
        EXT.large_pages_later(arrays)
        del arrays
        mx.clear_cache()
        kept = _made(1, 3)
        time.sleep(0.02)
        assert mx.array_equal(kept[0], mx.arange(kept[0].size))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_the_child_of_a_fork_gathers_its_own():
    assert EXT is not None
    arrays = _made(1, 5)
    EXT.large_pages_later(arrays)
    child = os.fork()
    if child == 0:
        EXT.large_pages_later(arrays)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
