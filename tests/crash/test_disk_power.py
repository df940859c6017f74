"""Power cuts, simulated: what was not synced may be lost, cut short or come in another order.

The store's calls are recorded; for a cut after any of them a folder is made that a file system may leave: synced bytes
and synced names are there, of everything else any part. The store must open it and give back only what was put.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlx_lm.engine.prefix import folder as folder_module
from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.engine.prefix.frame import StoredArray

SPACE = b"s" * 16
BUDGET = 14_000


@dataclass
class Recorder:
    """The `os` module as the store sees it; `log` has what changes files or names, in order."""

    log: list[tuple] = field(default_factory=list)
    open_files: dict[int, tuple[str, int]] = field(default_factory=dict)
    inodes: int = 0

    def __getattr__(self, name: str):
        return getattr(os, name)

    def open(self, path, flags, mode=0o777):
        fd = os.open(path, flags, mode)
        if flags & os.O_TRUNC:
            self.inodes += 1
            self.log.append(("create", str(path), self.inodes))
            self.open_files[fd] = ("file", self.inodes)
        elif flags & os.O_DIRECTORY:
            self.open_files[fd] = ("folder", str(path))
        return fd

    def close(self, fd):
        self.open_files.pop(fd, None)
        os.close(fd)

    def write(self, fd, data):
        done = os.write(fd, data)
        if fd in self.open_files:
            self.log.append(("write", self.open_files[fd][1], bytes(data[:done])))
        return done

    def fsync(self, fd):
        kind, what = self.open_files[fd]
        self.log.append(("sync " + kind, what))

    def replace(self, source, target):
        os.replace(source, target)
        self.log.append(("rename", str(source), str(target)))

    def unlink(self, path):
        os.unlink(path)
        self.log.append(("unlink", str(path)))


def array(i: int) -> dict[str, StoredArray]:
    return {"a": StoredArray("U8", (900 + i,), memoryview(random.Random(i).randbytes(900 + i)))}


def record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "os", recorder)
        with DiskStore(folder, budget_bytes=BUDGET) as store:
            for i in range(24):
                parent = (i - 1).to_bytes(16, "big") if i % 4 else None
                store.put(SPACE, i.to_bytes(16, "big"), parent, array(i), {"n": i, "complete": i % 3 > 0})
                if i % 3 == 0:
                    store.flush(10)
                    store.put(SPACE, i.to_bytes(16, "big"), parent, array(i), {"n": i})
            store.flush(10)
    return recorder.log


def cut(log: list[tuple], folder: Path, chance: random.Random) -> None:
    """Makes in `folder` what may be there when the power goes after `log`."""
    synced_folder = {what: j for j, (kind, what, *_) in enumerate(log) if kind == "sync folder"}
    content: dict[int, list] = {}  # inode -> [written, synced]
    names: dict[str, int] = {}
    moved: dict[str, int] = {}  # the inode of each name as the program sees it
    for j, (kind, what, *rest) in enumerate(log):
        if kind == "write":
            content[what][0] += rest[0]
        elif kind == "sync file":
            content[what][1] = len(content[what][0])
        elif kind in ("create", "rename", "unlink"):
            lasting = synced_folder.get(str(Path(what).parent), -1) > j or chance.random() < 0.5
            inode = rest[0] if kind == "create" else moved.pop(what, None)
            if kind == "create":
                content[inode] = [b"", 0]
            target = rest[0] if kind == "rename" else what
            if kind != "unlink":
                moved[target] = inode
            if lasting:
                names.pop(what, None)
                if kind != "unlink":
                    names[target] = inode
    for name, inode in names.items():
        written, synced = content[inode]
        kept = chance.randint(synced, len(written))
        tail = bytes(chance.choice((0, len(written) - kept)))  # the length may be there before the bytes
        path = folder / Path(name).parent.name / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written[:kept] + tail)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_power_cuts(tmp_path, monkeypatch, rounds):
    log = record(tmp_path / "recorded", monkeypatch)
    assert len(log) > 150 and {"unlink", "rename", "sync file", "sync folder"} <= {entry[0] for entry in log}
    chance, kept = random.Random(0), 0
    for point in range(len(log) + 1):
        for round_ in range(rounds):
            folder = tmp_path / f"{point}.{round_}"
            cut(log[:point], folder, chance)
            with DiskStore(folder, budget_bytes=BUDGET, sync=False) as store:
                assert store.problem is None and store.stats().bytes <= BUDGET
                for entry in store.entries():
                    block = store.get(SPACE, entry.name.key)
                    i = int.from_bytes(entry.name.key, "big")
                    assert block is not None and block.arrays == array(i) and block.meta["n"] == i
                    kept += 1
                assert store.stats().corrupt == 0 and not list(folder.glob("*/.*"))
    assert kept > 100 * rounds
