"""A thread that works off a bounded queue in groups. Pure Python; it does not know what the work is.

Nothing here waits on the caller's path: a job that does not fit is refused at once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Writer"]

_log = logging.getLogger(__name__)
_GROUP = 32  # jobs that share one sync of their folders

J = TypeVar("J")


class Writer(Generic[J]):
    """Calls `work` with groups of jobs, in order, on one thread of its own.

    Args:
        work: does the jobs; an exception is logged, and ends that group alone.
        max_bytes: of jobs that are waiting or being done.
    """

    def __init__(self, work: Callable[[Sequence[J]], None], max_bytes: int):
        self.max_bytes = max_bytes
        self._work = work
        self._jobs: deque[tuple[J, int]] = deque()
        self._nbytes = 0
        self._busy = False
        self._closed = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of jobs that are waiting or being done."""
        return self._nbytes

    def offer(self, job: J, nbytes: int) -> bool:
        """Takes a job of `nbytes`, or refuses it: closed, full, or no thread can be had."""
        with self._change:
            if self._closed or self._nbytes + nbytes > self.max_bytes:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="prompt-cache-writer", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # out of threads
                    return False
                self._thread = thread
            self._jobs.append((job, nbytes))
            self._nbytes += nbytes
            self._change.notify_all()
            return True

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until everything is done; False when `timeout` seconds were not enough."""
        with self._change:
            return self._change.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def close(self, timeout: float | None = None) -> int:
        """Takes no more jobs, waits up to `timeout` seconds for those at hand, and returns how many were given up."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._change:
            self._closed = True
            self._change.wait_for(lambda: not self._jobs and not self._busy, timeout)
            dropped = len(self._jobs)
            self._jobs.clear()
            self._change.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(None if end is None else max(end - time.monotonic(), 0.1))
        return dropped

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                group = [self._jobs.popleft() for _ in range(min(_GROUP, len(self._jobs)))]
                self._busy = True
            try:
                self._work([job for job, _ in group])
            except Exception:
                _log.exception("A group of prompt-cache writes failed")
            with self._change:
                self._nbytes -= sum(nbytes for _, nbytes in group)
                self._busy = False
                del group
                self._change.notify_all()
