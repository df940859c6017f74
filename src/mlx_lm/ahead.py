"""Work that begins before its result is needed, on a thread of its own.

Contract: pays only where one of the two sides leaves Python for a while, such as MLX reading weights. Nothing that runs
here may touch MLX: arrays belong to the thread that owns the model. Whatever the work raises, `result` raises.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")


class Ahead(Generic[T]):
    """Runs `work` from now on, and `then` after it, for which nobody waits and whose errors count for nothing."""

    def __init__(self, work: Callable[[], T], *, then: Callable[[], object] | None = None) -> None:
        self._work, self._then = work, then
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._settled = threading.Event()
        try:
            # no daemon: a process that ends while this thread is inside an extension would be aborted
            threading.Thread(target=self._run, name="mlx_lm ahead").start()
        except RuntimeError:  # the system gives no more threads
            self._run()

    def _run(self) -> None:
        try:
            self._values.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self._settled.set()
        if self._then is not None and self._error is None:
            with contextlib.suppress(Exception):
                self._then()

    def settle(self) -> None:
        """Waits until the work is done or has failed."""
        self._settled.wait()

    def result(self) -> T:
        """What the work returned, as soon as it is there; raises what the work raised."""
        self.settle()
        if self._error is not None:
            raise self._error
        return self._values[0]
