"""Makes the n-th file-system call of the store fail, whichever it is; counts them when n is None."""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_lm.engine.prefix import folder as folder_module

CALLS = ("open", "read", "write", "fsync", "replace", "unlink", "mkdir", "scandir", "utime", "lstat", "ftruncate")


@dataclass
class Faults:
    """`fail_at`: the call that fails (and all later ones when `lasting`); `seen`: calls so far."""

    fail_at: int | None
    code: int
    lasting: bool = False
    seen: int = 0
    raised: int = 0

    def strike(self) -> bool:
        self.seen += 1
        hit = self.fail_at is not None and (self.seen == self.fail_at or (self.lasting and self.seen > self.fail_at))
        self.raised += hit
        return hit


class _FaultyOS:
    """The `os` module as the store's folder sees it."""

    def __init__(self, faults: Faults, short_writes: bool):
        self._faults = faults
        self._short = short_writes

    def __getattr__(self, name: str):
        real = getattr(os, name)
        if name == "fsync" and self._short:
            return lambda fd: None
        if name not in CALLS or (self._short and name != "write"):
            return real

        def call(*args, **kwargs):
            if self._faults.strike():
                if self._short and name == "write":
                    return real(args[0], memoryview(args[1])[: max(len(args[1]) // 2, 1)])
                raise OSError(self._faults.code, os.strerror(self._faults.code))
            if name == "fsync":  # the medium is not under test, and slow
                return None
            return real(*args, **kwargs)

        return call


@contextlib.contextmanager
def faulty(
    fail_at: int | None, code: int = errno.EIO, *, lasting: bool = False, short_writes: bool = False
) -> Iterator[Faults]:
    """Within: the store's file-system calls go wrong as told."""
    faults = Faults(fail_at, code, lasting)
    plain = folder_module.os
    folder_module.os = _FaultyOS(faults, short_writes)  # type: ignore[assignment]
    try:
        yield faults
    finally:
        folder_module.os = plain
