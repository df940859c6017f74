"""Progress on stderr for what takes more than a second; only on a terminal, and nothing of it stays there."""

import sys
import threading
import time
from types import TracebackType

__all__ = ["Waiting", "prefill_progress"]

_PATIENCE = 1.0  # seconds before anything is shown
_CLEAR = "\r\033[K"


class Waiting:
    """`with Waiting("Loading x"):` shows the words and the seconds while the block runs."""

    def __init__(self, what: str):
        self._what = what
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Waiting":
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _show(self) -> None:
        start = time.monotonic()
        shown = False
        while not self._done.wait(_PATIENCE if not shown else 0.5):
            shown = True
            sys.stderr.write(f"{_CLEAR}{self._what} ... {time.monotonic() - start:.0f} s")
            sys.stderr.flush()
        if shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


class _Prefill:
    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._start = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if not self._live or (not self._shown and time.monotonic() - self._start < _PATIENCE):
            return
        if done >= total:
            sys.stderr.write(_CLEAR)
        else:
            sys.stderr.write(f"{_CLEAR}Reading the prompt: {done:,} of {total:,} tokens ({100 * done // total}%)")
        self._shown = done < total
        sys.stderr.flush()


def prefill_progress() -> _Prefill:
    """A callback (tokens done, tokens in all)."""
    return _Prefill()
