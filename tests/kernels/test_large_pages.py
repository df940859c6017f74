"""Memory that is gathered into large pages keeps its content, whatever happens to it meanwhile."""

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


def _made(count: int, megabytes: float) -> list[mx.array]:
    arrays = [mx.arange(int(megabytes * MEGABYTE) // 4) * (i + 1) for i in range(count)]
    mx.eval(arrays)
    return arrays


def test_content_stays():
    assert EXT is not None
    before, arrays, expected = _in_large_pages(), _made(20, 0.4) + _made(2, 9), _made(20, 0.4) + _made(2, 9)
    EXT.large_pages_later([*arrays, mx.ones((4,)) + 1])  # small ones and what is not computed yet are left alone
    until = time.monotonic() + 10
    while time.monotonic() < until:
        assert all(mx.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
        if before < 0 or _in_large_pages() >= before + 8 * MEGABYTE:
            break
        time.sleep(0.05)


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
