"""Kills (-9) at random moments of writing: what was there before is there after, and nothing comes back wrong."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_lm.engine.prefix.disk import DiskStore

WRITER = """
import os, random, sys
from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.engine.prefix.frame import StoredArray

folder, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
store = DiskStore(folder, budget_bytes=3_000_000)
assert store.problem is None and not store.read_only, store.problem
sys.stdout.write("ready\\n")
sys.stdout.flush()
while True:
    # A chain's blocks: key and content follow from a number, so a reader knows what must be there.
    number = chance.randrange(200)
    key, parent = number.to_bytes(16, "big"), None
    if number % 8:
        parent = (number - 1).to_bytes(16, "big")
    size = 1000 + number * 300
    data = random.Random(number).randbytes(size)
    meta = {"n": number, "complete": chance.random() < 0.5}
    store.put(b"s" * 16, key, parent, {"a": StoredArray("U8", (size,), memoryview(data))}, meta)
    if chance.random() < 0.2:
        store.get(b"s" * 16, chance.randrange(200).to_bytes(16, "big"))
    if chance.random() < 0.3:
        store.flush()
        for entry in store.entries():  # acknowledged and synced
            pass
"""


def verify(folder: Path) -> int:
    """Opens the folder as after a reboot, reads every block, and returns how many there are."""
    with DiskStore(folder, budget_bytes=3_000_000) as store:
        assert store.problem is None and not store.read_only, "a failed start"
        entries = store.entries()
        for entry in entries:
            block = store.get(entry.name.namespace, entry.name.key)
            assert block is not None, "a block was lost or damaged"
            number = int.from_bytes(entry.name.key, "big")
            assert block.meta["n"] == number
            assert bytes(block.arrays["a"].data) == random.Random(number).randbytes(1000 + number * 300)
        stats = store.stats()
        assert stats.corrupt == stats.errors == stats.misses == 0
        assert stats.bytes <= 3_000_000
        assert not list(folder.glob("*/.*")), "a temporary file was left"
        return len(entries)


def kill_in_mid_write(folder: Path, seed: int, chance: random.Random) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(seed)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n", "a failed start"
        time.sleep(chance.random() * 0.12)
        assert writer.poll() is None
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_kills(tmp_path, kills):
    chance = random.Random(kills)
    counts = []
    for seed in range(kills):
        kill_in_mid_write(tmp_path, seed, chance)
        counts.append(verify(tmp_path))
    assert counts[-1] > 20  # the blocks of earlier lives are still there


def test_an_owner_that_dies_frees_the_folder(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "0"], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == "ready\n"
        with DiskStore(tmp_path, budget_bytes=10**6) as store:
            assert store.read_only and (tmp_path / "lock").read_text() == f"{writer.pid}\n"
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    with DiskStore(tmp_path, budget_bytes=10**6) as store:
        assert not store.read_only


def test_a_reader_beside_a_writer(tmp_path):
    """Two processes on one folder, with a budget that makes the writer evict what the reader wants."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "1"], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    found = 0
    try:
        assert writer.stdout.readline() == "ready\n"
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            with DiskStore(tmp_path, budget_bytes=3_000_000) as store:
                assert store.read_only and not store.put(b"s" * 16, b"k" * 16, None, {}, {})
                for entry in store.entries():
                    block = store.get(entry.name.namespace, entry.name.key)
                    if block is not None:
                        number = int.from_bytes(entry.name.key, "big")
                        assert bytes(block.arrays["a"].data) == random.Random(number).randbytes(1000 + number * 300)
                        found += 1
                assert store.stats().corrupt == store.stats().errors == 0
        assert writer.poll() is None and found > 20
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    verify(tmp_path)
