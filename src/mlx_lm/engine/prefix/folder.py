"""The disk store's folder: names, one owner, whole files. All file-system calls of the store are here.

A block lies in `<first byte of its key, hex>/<namespace>.<key>.<parent>.<kind><frame version>`, all hex; the parent
is `-` for a first block; the kind is `blk` when a sequence can be resumed at the block's end and `mid` when not. So
one listing of the folder tells all that the index needs. A file appears under its name only when it is whole and
synced. Other files in the folder are never touched. The module does not know budgets or order of use.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .frame import VERSION

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["BlockFolder", "Listing", "Name"]

_NAME = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})\.([0-9a-f]{32}|-)\.(blk|mid)(\d{1,4})")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.\d+\.tmp")
_SUBFOLDER = re.compile(r"[0-9a-f]{2}")
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Name:
    """What a block's file name says."""

    namespace: bytes
    key: bytes
    parent: bytes | None
    complete: bool
    version: int = VERSION

    def __str__(self) -> str:
        parent = "-" if self.parent is None else self.parent.hex()
        return f"{self.namespace.hex()}.{self.key.hex()}.{parent}.{'blk' if self.complete else 'mid'}{self.version}"

    @staticmethod
    def parse(text: str) -> "Name | None":
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        namespace, key, parent, kind, version = found.groups()
        origin = None if parent == "-" else bytes.fromhex(parent)
        return Name(bytes.fromhex(namespace), bytes.fromhex(key), origin, kind == "blk", int(version))


@dataclass(frozen=True)
class Listing:
    """Blocks as (name, bytes, time of last use), and temporary files that a crash left, with their bytes."""

    blocks: list[tuple[Name, int, float]]
    temporary: list[tuple[Path, int]]


class BlockFolder:
    """Files of blocks under `root`. Every method may raise OSError."""

    def __init__(self, root: Path, *, sync: bool = True):
        self.root = root
        self.sync = sync
        self.litter: dict[Path, int] = {}  # temporary files that could not be removed, and their bytes
        self._lock: int | None = None
        self._count = 0

    def open(self) -> bool:
        """Makes the folder when it is not there, and takes its lock; False when it can only be read."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o600)
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES) and self.root.is_dir():
                return False
            raise
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is the owner
            self.close()
            return False
        except OSError:
            self.close()
            raise
        with contextlib.suppress(OSError):  # a note for people
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())
        return True

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with contextlib.suppress(OSError):
                os.close(lock)

    def path(self, name: Name) -> Path:
        return self.root / name.key[:1].hex() / str(name)

    def scan(self) -> Listing:
        """What is there. What vanishes meanwhile is left out; links are never followed."""
        blocks: list[tuple[Name, int, float]] = []
        temporary: list[tuple[Path, int]] = []
        with os.scandir(self.root) as top:
            folders = [e.path for e in top if _SUBFOLDER.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        for folder in folders:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    name = Name.parse(entry.name)
                    leftover = _TEMPORARY.fullmatch(entry.name) is not None
                    if not (name or leftover) or not entry.is_file(follow_symlinks=False):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        if name is None:
                            temporary.append((Path(entry.path), found.st_size))
                        elif Path(folder).name == name.key[:1].hex():
                            blocks.append((name, found.st_size, found.st_mtime))
        return Listing(blocks, temporary)

    def read(self, name: Name, limit: int) -> bytes:
        """The whole file, but no more than `limit` + 1 bytes."""
        fd = os.open(self.path(name), os.O_RDONLY | _NO_LINKS)
        try:
            data = os.read(fd, limit + 1)
            while len(data) <= limit and (more := os.read(fd, limit + 1 - len(data))):
                data += more
            return data
        finally:
            os.close(fd)

    def write(self, name: Name, chunks: Iterable[memoryview]) -> None:
        """Puts the file there whole, or not at all; `sync_folders` makes its name last."""
        target = self.path(name)
        self._subfolder(target.parent)
        self._count += 1
        temporary = target.parent / f".{name.key.hex()}.{self._count}.tmp"
        written = 0
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINKS, 0o600)
        try:
            try:
                for chunk in chunks:
                    written += _write_all(fd, chunk)
                self._sync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, target)
        except BaseException:
            self.litter[temporary] = written
            self.sweep()
            raise

    def sweep(self) -> None:
        """Removes temporary files that are of no use; what can't be removed stays in `litter`."""
        for path in list(self.litter):
            with contextlib.suppress(OSError):
                self._unlink(path)
                del self.litter[path]

    def sync_folders(self, names: Iterable[Name]) -> None:
        """Makes the names of files that were just written last, one sync for each subfolder."""
        if not self.sync or not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
            return
        for folder in {self.path(name).parent for name in names}:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS)
            try:
                self._sync(fd)
            finally:
                os.close(fd)

    def remove(self, name: Name) -> None:
        """Removes a block's file; it is no error when it is gone already."""
        self._unlink(self.path(name))

    def touch(self, name: Name, when: float) -> None:
        """Notes a use, for the order after a restart."""
        os.utime(self.path(name), (when, when))

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _subfolder(self, folder: Path) -> None:
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise
            return
        if self.sync and hasattr(os, "O_DIRECTORY"):
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | _NO_LINKS)
            try:
                self._sync(fd)
            finally:
                os.close(fd)

    def _sync(self, fd: int) -> None:
        if not self.sync:
            return
        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves the bytes in the drive's cache
        if fcntl is not None and full is not None:
            with contextlib.suppress(OSError):  # some file systems do not know it
                fcntl.fcntl(fd, full)
                return
        os.fsync(fd)


def _write_all(fd: int, data: memoryview) -> int:
    done = 0
    while done < data.nbytes:
        written = os.write(fd, data[done:])
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        done += written
    return done
