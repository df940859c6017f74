"""The durable tier of the prefix cache: blocks in files, under a hard byte budget. Pure Python.

`put` hands a block to a writer thread; `get` reads and verifies one. Neither ever raises: a full disk, a dying one,
a damaged file or too many open files are counted, logged and otherwise a miss. One process owns a folder; another
one that opens it reads what was there. The files are the truth and the index is a listing of them, so nothing but
whole, verified blocks can come back after a crash at any point. The module does not know arrays or models.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CacheMismatchError
from .disk_index import DiskEntry, DiskIndex
from .folder import BlockFolder, Name
from .frame import BufferView, Frame, StoredBlock, decode
from .writer import Writer

__all__ = ["CheckReport", "DiskEntry", "DiskStats", "DiskStore"]

_log = logging.getLogger(__name__)
_TOUCH_SECONDS = 60.0  # a use is written to the file's time at most this often


@dataclass(frozen=True)
class DiskStats:
    """What lies there and what happened since the start; `dropped` counts blocks that were not taken or not written."""

    entries: int
    bytes: int
    budget_bytes: int
    queued_bytes: int
    hits: int
    misses: int
    written: int
    evicted: int
    dropped: int
    corrupt: int
    errors: int
    read_only: bool


@dataclass(frozen=True)
class CheckReport:
    """Blocks looked at, files that are damaged or of another version, files that could not be read."""

    checked: int
    corrupt: tuple[Path, ...]
    unreadable: tuple[Path, ...]
    removed: int


@dataclass
class _Counts:
    hits: int = 0
    misses: int = 0
    written: int = 0
    evicted: int = 0
    dropped: int = 0
    corrupt: int = 0
    errors: int = 0


@dataclass(frozen=True)
class _Job:
    """A block to write (with arrays), or a use to note (without)."""

    name: Name
    arrays: Mapping[str, BufferView] | None = None
    meta: Mapping[str, Any] | None = None


class DiskStore:
    """Blocks of computed prefixes in `folder`, at most `budget_bytes` of files.

    Args:
        folder: made when it is not there; all state lies in it.
        budget_bytes: of all blocks, temporary files included.
        max_queue_bytes: of blocks that wait to be written; more are dropped.
        sync: a block is on the medium before its name is; False is for tests and throw-away folders.
        read_only: leave the folder to its owner, whoever that is.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        budget_bytes: int,
        max_queue_bytes: int = 256 * 2**20,
        sync: bool = True,
        read_only: bool = False,
    ):
        self.budget_bytes = budget_bytes
        self.problem: str | None = None  # why the folder cannot be used at all
        self._folder = BlockFolder(Path(folder).expanduser(), sync=sync)
        self._index = DiskIndex()
        self._counts = _Counts()
        self._pending: dict[tuple[bytes, bytes], bool] = {}  # waiting to be written: whether resumable
        self._lock = threading.RLock()
        self._writer: Writer[_Job] = Writer(self._work, max_queue_bytes)
        self.read_only = True
        try:
            self.read_only = read_only or not self._folder.open()
            self._start()
        except OSError as error:
            self.problem = f"{self._folder.root} cannot be used: {error.strerror or error}"
            self._failed("open the prompt cache", error)

    # The tier's face. Nothing here raises.

    def contains(self, namespace: bytes, key: bytes, *, complete: bool = False) -> bool:
        """Whether the block is there; with `complete`, whether a sequence can be resumed at its end."""
        with self._lock:
            entry = self._index.get(namespace, key)
            return entry is not None and (entry.name.complete or not complete)

    def get(self, namespace: bytes, key: bytes) -> StoredBlock | None:
        """The block, verified to the last bit, or None."""
        with self._lock:
            self._index.active.add(namespace)
            entry = self._index.get(namespace, key)
            block = None if entry is None else self._read(entry)
            if entry is None or block is None:
                self._counts.misses += 1
                return None
            self._counts.hits += 1
            self._use(entry)
            return block

    def put(
        self,
        namespace: bytes,
        key: bytes,
        parent: bytes | None,
        arrays: Mapping[str, BufferView],
        meta: Mapping[str, Any],
    ) -> bool:
        """Takes a block to be written soon; False when it was dropped.

        The caller leaves the buffers as they are. `meta["complete"]` (default True) says whether a sequence can be
        resumed at the block's end; such a block replaces one that it can't.
        """
        complete = bool(meta.get("complete", True))
        place = namespace, key
        with self._lock:
            self._index.active.add(namespace)
            entry = self._index.get(namespace, key)
            if entry is not None and (entry.name.complete or not complete):
                self._use(entry)
                return True
            if place in self._pending and (self._pending[place] or not complete):
                return True
            nbytes = sum(memoryview(array.data).nbytes for array in arrays.values())
            refused = self.read_only or nbytes > self.budget_bytes or not self._reachable(namespace, parent)
            job = _Job(Name(namespace, key, parent, complete), arrays, meta)
            if refused or not self._writer.offer(job, nbytes):
                self._counts.dropped += 1
                return False
            self._pending[place] = complete
            return True

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until what was taken is written; False when `timeout` seconds were not enough."""
        return self._writer.flush(timeout)

    def close(self, timeout: float | None = 3.0) -> None:
        """Writes what it can in `timeout` seconds, drops the rest, and gives the folder back."""
        given_up = self._writer.close(timeout)
        with self._lock:
            self._counts.dropped += given_up
            self._pending.clear()
            self.read_only = True
            self._folder.close()

    def __enter__(self) -> "DiskStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stats(self) -> DiskStats:
        with self._lock:
            return DiskStats(
                entries=len(self._index),
                bytes=self._index.nbytes + sum(self._folder.litter.values()),
                budget_bytes=self.budget_bytes,
                queued_bytes=self._writer.nbytes,
                read_only=self.read_only,
                **vars(self._counts),
            )

    def check_books(self) -> None:
        """Raises AssertionError when the books do not balance."""
        with self._lock:
            self._index.check()
            assert self.read_only or self._index.nbytes <= self.budget_bytes, "over budget"

    # For people.

    def entries(self) -> list[DiskEntry]:
        """Every file, of all namespaces and versions."""
        with self._lock:
            return list(self._index)

    def check(self, *, repair: bool = False) -> CheckReport:
        """Reads and verifies every file; with `repair`, removes those that are damaged or of another version."""
        corrupt: list[Path] = []
        unreadable: list[Path] = []
        removed = 0
        entries = self.entries()
        for entry in entries:
            path = self._folder.path(entry.name)
            try:
                decode(self._folder.read(entry.name, entry.size), entry.name.namespace, entry.name.key)
            except FileNotFoundError:
                continue
            except OSError:
                unreadable.append(path)
            except CacheMismatchError:
                corrupt.append(path)
                with self._lock:
                    removed += repair and not self.read_only and self._remove(entry)
        return CheckReport(len(entries), tuple(corrupt), tuple(unreadable), removed)

    def prune(self, budget_bytes: int | None = None, keep_namespace: bytes | None = None) -> tuple[int, int]:
        """Removes the other namespaces, if one is to be kept, and then what is over `budget_bytes`.

        Returns the number of files and of bytes that went.
        """
        if keep_namespace is None:
            return self._reduce(self.budget_bytes if budget_bytes is None else budget_bytes)
        files, nbytes = self.remove(but=keep_namespace)
        more = self._reduce(self.budget_bytes if budget_bytes is None else budget_bytes)
        return files + more[0], nbytes + more[1]

    def remove(self, namespace: bytes | None = None, *, but: bytes | None = None) -> tuple[int, int]:
        """Removes a namespace, or everything (`but` one namespace); returns the number of files and of bytes."""
        chosen = [e for e in self.entries() if namespace in (None, e.name.namespace) and e.name.namespace != but]
        with self._lock:
            gone = [e.size for e in chosen if not self.read_only and self._remove(e)]
        return len(gone), sum(gone)

    # Inside; the lock is held.

    def _start(self) -> None:
        listing = self._folder.scan()
        useless = self._index.fill(listing.blocks)
        if self.read_only:
            _log.info("%s is only read: another process owns it, or it cannot be written", self._folder.root)
            return
        self._folder.litter |= dict(listing.temporary)
        self._folder.sweep()
        for name in useless:
            self._unlink(name)
        self._reduce(self.budget_bytes)

    def _read(self, entry: DiskEntry) -> StoredBlock | None:
        try:
            data = self._folder.read(entry.name, entry.size)
            return decode(data, entry.name.namespace, entry.name.key)
        except FileNotFoundError:
            self._index.drop(entry)
        except (OSError, MemoryError) as error:
            self._failed("read a block", error)
        except CacheMismatchError as error:
            self._counts.corrupt += 1
            _log.warning("A damaged block was dropped from the prompt cache (%s): %s", entry.name, error)
            if self.read_only or not self._remove(entry):
                self._index.drop(entry)
        return None

    def _use(self, entry: DiskEntry) -> None:
        now = time.time()
        stale = now - entry.when > _TOUCH_SECONDS
        self._index.touch(entry.name.namespace, entry.name.key, now)
        if stale and not self.read_only:
            self._writer.offer(_Job(entry.name), 0)

    def _work(self, jobs: Sequence[_Job]) -> None:
        """On the writer's thread: a group of jobs."""
        done = [job.name for job in jobs if self._do(job)]
        try:
            self._folder.sync_folders(done)
        except OSError as error:  # the blocks are there; a power cut may lose their names
            self._failed("sync a folder", error)

    def _do(self, job: _Job) -> bool:
        name = job.name
        try:
            if job.arrays is None:
                self._folder.touch(name, time.time())
                return False
            return self._write(job)
        except FileNotFoundError as error:
            if job.arrays is not None:
                self._failed("write a block", error)
        except Exception as error:  # whatever it is, the next block has its own chance
            self._failed("write a block", error)
        finally:
            if job.arrays is not None:
                with self._lock:
                    self._pending.pop((name.namespace, name.key), None)
        with self._lock:
            self._counts.dropped += job.arrays is not None
        return False

    def _write(self, job: _Job) -> bool:
        name = job.name
        frame = Frame(name.namespace, name.key, name.parent, job.arrays or {}, job.meta or {}, complete=name.complete)
        with self._lock:
            room = self._reachable(name.namespace, name.parent) and self._make_room(frame.size, name)
        if not room:
            with self._lock:
                self._counts.dropped += 1
            return False
        self._folder.write(name, frame.chunks())
        with self._lock:
            old = self._index.get(name.namespace, name.key)
            self._index.add(name, frame.size, time.time())
            self._counts.written += 1
            if old is not None and old.name != name:
                self._unlink(old.name)
        return True

    def _reachable(self, namespace: bytes, parent: bytes | None) -> bool:
        """Whether a block with this parent can ever be found: one whose chain is broken only takes up room."""
        if parent is None or (namespace, parent) in self._pending:
            return True
        return self._index.get(namespace, parent) is not None

    def _make_room(self, size: int, name: Name) -> bool:
        """Evicts until a file of `size` fits the budget; never what it is chained to."""
        self._folder.sweep()
        held = size + sum(self._folder.litter.values())
        spared, at = {(name.namespace, name.key)}, name.parent
        while at is not None and (name.namespace, at) not in spared:
            spared.add((name.namespace, at))
            entry = self._index.get(name.namespace, at)
            at = None if entry is None else entry.name.parent
        return self._evict(self.budget_bytes - held, spared)

    def _reduce(self, budget: int) -> tuple[int, int]:
        with self._lock:
            files, nbytes = len(self._index), self._index.nbytes
            if not self.read_only:
                self._evict(budget, set())
            return files - len(self._index), nbytes - self._index.nbytes

    def _evict(self, budget: int, spared: set[tuple[bytes, bytes]]) -> bool:
        """Brings the blocks to at most `budget` bytes; False when that can't be done."""
        stuck = set(spared)
        while self._index.nbytes > budget:
            entry = self._index.victim(stuck)
            if entry is None:
                return False
            if self._remove(entry):
                self._counts.evicted += 1
            else:
                stuck.add((entry.name.namespace, entry.name.key))
        return True

    def _remove(self, entry: DiskEntry) -> bool:
        """Removes an entry and its file; it stays in the books while its bytes stay on disk."""
        if not self._unlink(entry.name):
            return False
        self._index.drop(entry)
        return True

    def _unlink(self, name: Name) -> bool:
        try:
            self._folder.remove(name)
        except OSError as error:
            self._failed("remove a block", error)
            return False
        return True

    def _failed(self, what: str, error: BaseException) -> None:
        with self._lock:
            self._counts.errors += 1
            count = self._counts.errors
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...: a dying disk does not fill the log as well
            with contextlib.suppress(Exception):
                _log.warning("Could not %s: %s (error %d)", what, error, count)
