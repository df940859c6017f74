"""Runs one measurement in a fresh process and sees what only its parent can: wall time, first output, peak memory.

Knows nothing of engines. The parent must stay small: Linux counts its pages as the child's until the child's program
starts, so nothing here may import MLX.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Finished", "MeasureError", "run"]


class MeasureError(Exception):
    """A measurement gave no number; the message says why."""


@dataclass(frozen=True)
class Finished:
    """What a process did. `first` is the seconds from its start to the first output that counts, or None."""

    stdout: str
    seconds: float
    first: float | None
    rss: int  # bytes


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str | None] | None = None,
    timeout: float,
    counts: Callable[[bytes], bool] = bool,
) -> Finished:
    """Runs `argv` to its end.

    Args:
        env: variables to set, or to remove where the value is None.
        timeout: seconds after which it is killed.
        counts: whether the output so far holds the first thing that was waited for.

    Raises:
        MeasureError: it failed, or was too slow.
    """
    variables = {**os.environ, **(env or {})}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        child = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=errors, env={k: v for k, v in variables.items() if v is not None}
        )
        late = threading.Event()

        def kill() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout, kill)
        timer.start()
        assert child.stdout is not None
        output, first = b"", None
        try:
            while chunk := os.read(child.stdout.fileno(), 1 << 16):
                output += chunk
                if first is None and counts(output):
                    first = time.perf_counter() - start
        except BaseException:  # Ctrl-C: leave nothing running
            child.kill()
            raise
        finally:
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - start
            timer.cancel()
            child.stdout.close()
            child.returncode = os.waitstatus_to_exitcode(status)
        if late.is_set():
            raise MeasureError(f"more than {timeout:.0f} s")
        if child.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise MeasureError(f"exit status {child.returncode}: {lines[-1][:200]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(output.decode(errors="replace"), seconds, first, usage.ru_maxrss * unit)
