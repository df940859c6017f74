"""The disk store: what was put comes back or is a miss, whatever the disk does; never over budget; one owner."""

import errno
import logging
import os
import random
import stat
import threading
import time
from pathlib import Path

import pytest
from faults import faulty
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.engine.prefix.folder import Name
from mlx_lm.engine.prefix.frame import VERSION, Frame, StoredArray

SPACE, OTHER = b"s" * 16, b"o" * 16


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def key(i: int) -> bytes:
    return random.Random(i).randbytes(16)


def content(i: int, size: int = 2000) -> dict[str, StoredArray]:
    return {"a": StoredArray("U8", (size,), memoryview(random.Random(-i - 1).randbytes(size)))}


ONE = Frame(SPACE, key(0), None, content(0), {"n": 10, "complete": False}).size  # the largest file of these tests


def open_store(folder: Path, budget: int = 10**6, **kwargs) -> DiskStore:
    return DiskStore(folder, budget_bytes=budget, **{"sync": False, **kwargs})


def put_chain(store: DiskStore, ids, space: bytes = SPACE, size: int = 2000) -> None:
    parent = None
    for i in ids:
        assert store.put(space, key(i), parent, content(i, size), {"n": i})
        parent = key(i)
    assert store.flush(10)


def has(store: DiskStore, i: int, space: bytes = SPACE, size: int = 2000) -> bool:
    """Whether block i is there; when it is, it must be right."""
    block = store.get(space, key(i))
    if block is None:
        return False
    assert block.arrays == content(i, size) and block.meta["n"] == i
    return True


def bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*/*"))


def block_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*"))


def test_round_trip_and_restart(tmp_path):
    with open_store(tmp_path / "c", sync=True) as store:
        assert store.get(SPACE, key(0)) is None
        put_chain(store, range(10))
        assert all(has(store, i) for i in range(10))
        assert store.get(SPACE, key(3)).parent == key(2)
        assert store.stats().written == 10 and store.stats().bytes == bytes_in(tmp_path / "c")
    with open_store(tmp_path / "c") as store:
        assert store.contains(SPACE, key(9)) and not store.contains(OTHER, key(9))
        assert all(has(store, i) for i in range(10))
        store.check_books()
        assert store.stats().misses == 0 and store.stats().hits == 10


def test_modes_are_private(tmp_path):
    with open_store(tmp_path / "a" / "c") as store:
        put_chain(store, range(2))
    for path in [tmp_path / "a" / "c", *(tmp_path / "a" / "c").iterdir(), *block_files(tmp_path / "a" / "c")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_block_with_a_checkpoint_replaces_one_without(tmp_path):
    with open_store(tmp_path) as store:
        assert store.put(SPACE, key(1), None, content(1), {"n": 1, "complete": False})
        assert store.flush(5)
        assert store.contains(SPACE, key(1)) and not store.contains(SPACE, key(1), complete=True)
        assert store.put(SPACE, key(1), None, content(1, 3000), {"n": 1, "complete": True})
        assert store.flush(5)
        assert store.contains(SPACE, key(1), complete=True) and has(store, 1, size=3000)
        assert store.put(SPACE, key(1), None, content(1), {"n": 1, "complete": False})
        assert store.flush(5) and has(store, 1, size=3000)
        assert len(block_files(tmp_path)) == 1
        store.check_books()


def test_both_kinds_after_a_crash(tmp_path):
    with open_store(tmp_path) as store:
        store.put(SPACE, key(1), None, content(1), {"n": 1, "complete": False})
        store.flush(5)
        (mid,) = block_files(tmp_path)
        saved = mid.read_bytes()
        store.put(SPACE, key(1), None, content(1), {"n": 1})
        store.flush(5)
    mid.write_bytes(saved)
    with open_store(tmp_path) as store:
        assert store.contains(SPACE, key(1), complete=True) and has(store, 1)
        assert not mid.exists() and store.stats().entries == 1


def test_budget_evicts_the_least_recently_used_leaf(tmp_path):
    with open_store(tmp_path, budget=6 * ONE) as store:
        put_chain(store, [0, 1, 2])
        put_chain(store, [10, 11, 12])
        assert has(store, 2)  # a use of the leaf is one of its ancestors
        put_chain(store, [20])
        assert not store.contains(SPACE, key(12)) and store.contains(SPACE, key(11))
        put_chain(store, [21, 22])
        assert [store.contains(SPACE, key(i)) for i in (0, 1, 2)] == [True] * 3
        assert [store.contains(SPACE, key(i)) for i in (10, 11, 12)] == [False] * 3
        assert bytes_in(tmp_path) <= 6 * ONE
        store.check_books()


def test_a_chain_never_evicts_its_own_ancestors(tmp_path):
    with open_store(tmp_path, budget=4 * ONE) as store:
        parent = None
        for i in range(8):
            store.put(SPACE, key(i), parent, content(i), {"n": i})
            parent = key(i)
            store.flush(5)
        assert [store.contains(SPACE, key(i)) for i in range(8)] == [True] * 4 + [False] * 4
        assert store.stats().dropped == 4


def test_order_of_use_survives_a_restart(tmp_path):
    with open_store(tmp_path) as store:
        put_chain(store, [0, 1, 2])
        put_chain(store, [10, 11, 12])
    now = time.time()
    for i, age in ((0, 500), (1, 400), (2, 50), (10, 300), (11, 200), (12, 100)):
        (path,) = tmp_path.glob(f"*/{SPACE.hex()}.{key(i).hex()}.*")
        os.utime(path, (now - age, now - age))
    with open_store(tmp_path, budget=4 * ONE) as store:
        # The chain whose leaf was used last stays whole, though its root's own time is the oldest.
        assert [store.contains(SPACE, key(i)) for i in (0, 1, 2)] == [True] * 3
        assert [store.contains(SPACE, key(i)) for i in (10, 11, 12)] == [True, False, False]


def test_uses_are_written_to_the_files(tmp_path):
    with open_store(tmp_path) as store:
        put_chain(store, [0])
    (path,) = block_files(tmp_path)
    os.utime(path, (1e9, 1e9))
    with open_store(tmp_path) as store:
        assert has(store, 0)
        store.flush(5)
    assert path.stat().st_mtime > time.time() - 60


def test_other_namespaces_and_versions_go_first(tmp_path):
    with open_store(tmp_path) as store:
        put_chain(store, [0, 1], SPACE)
        put_chain(store, [5, 6], OTHER)
    old = Name(SPACE, key(30), None, True, VERSION + 1)
    path = tmp_path / key(30)[:1].hex() / str(old)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(2000))
    with open_store(tmp_path, budget=5 * ONE) as store:
        assert store.stats().entries == 5 and store.get(SPACE, key(30)) is None
        put_chain(store, [2], SPACE)  # now SPACE is in use, and OTHER is not
        assert not path.exists()
        put_chain(store, [3, 4], SPACE)
        assert [store.contains(SPACE, key(i)) for i in range(5)] == [True] * 5
        assert not store.contains(OTHER, key(6)) and not store.contains(OTHER, key(5))


def test_oversize_is_refused(tmp_path):
    with open_store(tmp_path, budget=1000) as store:
        assert not store.put(SPACE, key(0), None, content(0), {})
        assert store.put(SPACE, key(0), None, content(0, 900), {})  # fits, but not with its frame
        store.flush(5)
        assert store.stats().dropped == 2 and bytes_in(tmp_path) == 0


def test_full_queue_drops(tmp_path):
    with open_store(tmp_path, max_queue_bytes=5000) as store:
        gate = threading.Event()
        write, store._folder.write = store._folder.write, lambda *a: (gate.wait(10), write(*a))
        taken = [store.put(SPACE, key(i), None, content(i), {"n": i}) for i in range(6)]
        assert taken == [True, True, False, False, False, False]
        assert store.stats().dropped == 4 and not store.flush(0.05)
        gate.set()
        assert store.flush(5) and store.stats().written == 2
        assert store.put(SPACE, key(5), None, content(5), {"n": 5})


def test_close_does_not_wait_for_ever(tmp_path):
    store = open_store(tmp_path)
    gate = threading.Event()
    store._folder.write = lambda *a: gate.wait(10)
    for i in range(100):
        store.put(SPACE, key(i), None, content(i), {"n": i})
    start = time.monotonic()
    store.close(0.2)
    assert time.monotonic() - start < 2 and store.stats().dropped >= 60
    assert not store.put(SPACE, key(0), None, content(0), {})
    gate.set()


def test_a_second_process_reads(tmp_path):
    with open_store(tmp_path) as owner:
        put_chain(owner, range(3))
        with open_store(tmp_path) as reader:
            assert reader.read_only and has(reader, 2)
            assert not reader.put(SPACE, key(9), None, content(9), {})
            assert reader.remove() == (0, 0) and reader.prune(0) == (0, 0)
            owner.remove()
            assert not has(reader, 2) and reader.stats().errors == 0  # gone meanwhile
            for path in block_files(tmp_path):
                path.unlink()
    with open_store(tmp_path) as store:
        assert not store.read_only


def test_damage_is_a_counted_miss(tmp_path):
    with open_store(tmp_path) as store:
        put_chain(store, range(4))
        for i, damage in enumerate(
            (lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:50], lambda b: b[:300] + b"?" + b[301:])
        ):
            (path,) = tmp_path.glob(f"*/{SPACE.hex()}.{key(i).hex()}.*")
            path.write_bytes(damage(path.read_bytes()))
        assert len(store.check().corrupt) == 4
        assert [has(store, i) for i in range(4)] == [False] * 4
        assert store.stats().corrupt == 4 and store.stats().entries == 0 and not block_files(tmp_path)
        put_chain(store, range(4))
        assert all(has(store, i) for i in range(4))


@pytest.mark.parametrize("flips", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_flipped_bits_in_files(tmp_path, flips):
    chance = random.Random(0)
    with open_store(tmp_path) as store:
        for _ in range(flips):
            put_chain(store, [1], size=200)
            (path,) = block_files(tmp_path)
            data = bytearray(path.read_bytes())
            bit = chance.randrange(len(data) * 8)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            assert store.get(SPACE, key(1)) is None
        assert store.stats().corrupt == flips


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    with open_store(tmp_path / "c") as store:
        put_chain(store, [0, 1])
    for i, target in ((0, secret), (1, tmp_path / "gone")):
        (path,) = (tmp_path / "c").glob(f"*/{SPACE.hex()}.{key(i).hex()}.*")
        secret.write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(target)
    with open_store(tmp_path / "c") as store:
        assert not has(store, 0) and not has(store, 1)
        put_chain(store, [0, 1])
        assert has(store, 0) and secret.exists()
    folder = tmp_path / "d"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / key(0)[:1].hex()).symlink_to(tmp_path / "elsewhere")
    with open_store(folder) as store:
        store.put(SPACE, key(0), None, content(0), {})
        store.flush(5)
        assert store.stats().dropped == 1 and not list((tmp_path / "elsewhere").iterdir())


def test_strange_files_are_left_alone(tmp_path):
    mine = [tmp_path / "note.txt", tmp_path / "aa" / "note", tmp_path / "zz" / "x.blk1", tmp_path / "aa" / ("g" * 32)]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("keep")
    leftover = tmp_path / "aa" / f".{'a' * 32}.7.tmp"
    leftover.write_text("half a block")
    with open_store(tmp_path) as store:
        assert store.stats().entries == 0 and not leftover.exists()
        store.remove()
    assert all(path.read_text() == "keep" for path in mine)


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with open_store(folder) as store:
            assert store.problem is not None and str(folder) in store.problem
            assert not store.put(SPACE, key(0), None, content(0), {}) and store.get(SPACE, key(0)) is None
            assert store.stats().errors == 1


def test_prune_and_remove(tmp_path):
    with open_store(tmp_path) as store:
        put_chain(store, range(5), SPACE)
        put_chain(store, range(10, 14), OTHER)
        files, nbytes = store.prune(keep_namespace=SPACE)
        assert files == 4 and nbytes > 8000 and store.stats().entries == 5
        assert store.prune(2 * ONE)[0] == 3 and has(store, 1) and not has(store, 2)
        assert store.remove(OTHER) == (0, 0) and store.remove(SPACE)[0] == 2
        assert not block_files(tmp_path)
        store.check_books()


def test_check_repairs(tmp_path):
    with open_store(tmp_path) as store:
        put_chain(store, range(3))
        path = block_files(tmp_path)[0]
        path.write_bytes(path.read_bytes()[:-3])
        report = store.check()
        assert (report.checked, report.corrupt, report.removed) == (3, (path,), 0) and path.exists()
        assert store.check(repair=True).removed == 1 and not path.exists()
        assert store.check().corrupt == () and store.stats().entries == 2


def workload(folder: Path, budget: int = 5 * ONE) -> None:
    """Every kind of call: start, writes, replacement, reads, eviction, touch, damage, removal, restart."""
    for round_ in range(2):
        with open_store(folder, budget, sync=True) as store:
            put_quietly(store, [0, 1, 2])
            for i in range(3):
                has(store, i)
            put_quietly(store, [10 + round_, 11 + round_, 12 + round_])
            store.put(SPACE, key(40), None, content(40), {"n": 40, "complete": False})
            store.flush(10)
            store.put(SPACE, key(40), None, content(40), {"n": 40})
            store.flush(10)
            for path in block_files(folder)[:1]:
                path.write_bytes(b"damage")
            for path in block_files(folder)[1:2]:
                os.utime(path, (1, 1))
            for i in (0, 1, 2, 10, 11, 12, 40):
                has(store, i)
            store.remove(SPACE if round_ else OTHER)
            assert bytes_in(folder) <= budget


def put_quietly(store: DiskStore, ids) -> None:
    parent = None
    for i in ids:
        store.put(SPACE, key(i), parent, content(i), {"n": i})
        parent = key(i)
    assert store.flush(10)


CODES = [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE]


@pytest.mark.parametrize(
    ("code", "step"), [*((code, 5) for code in CODES), *(pytest.param(c, 1, marks=pytest.mark.slow) for c in CODES)]
)
def test_any_call_may_fail(tmp_path, code, step):
    with faulty(None) as faults:
        workload(tmp_path / "count")
    assert faults.seen > 100
    for n in range(1 + CODES.index(code) % step, faults.seen + 1, step):
        folder = tmp_path / f"n{n}"
        with faulty(n, code) as struck:
            workload(folder)
        assert struck.raised == 1
        with open_store(folder) as store:  # after a restart: no temporary files, nothing damaged
            store.check_books()
            assert not list(folder.glob("*/.*")) and store.check(repair=True).unreadable == ()


def test_short_writes(tmp_path):
    with faulty(None, short_writes=True) as faults:
        workload(tmp_path / "count")
    assert faults.seen > 20
    for n in range(1, faults.seen + 1):
        with faulty(n, short_writes=True):
            workload(tmp_path / f"n{n}")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_dies(tmp_path, code):
    for n in (1, 5, 20, 60):
        with faulty(n, code, lasting=True) as struck:
            workload(tmp_path / f"n{n}")
        assert struck.raised > 1
        with open_store(tmp_path / f"n{n}") as store:
            store.check(repair=True)
            put_chain(store, [0])
            assert has(store, 0)


def test_threads_share_a_store(tmp_path):
    failures = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(100):
                i = chance.randrange(30)
                if chance.random() < 0.5:
                    store.put(SPACE, key(i), key(i - 1) if i % 5 else None, content(i), {"n": i})
                else:
                    has(store, i)
        except Exception as error:
            failures.append(error)

    with open_store(tmp_path, 12 * ONE) as store:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.flush(10)
        store.check_books()
        assert not failures and store.stats().corrupt == 0 and store.stats().errors == 0
        assert bytes_in(tmp_path) == store.stats().bytes <= 12 * ONE


class StoreMachine(RuleBasedStateMachine):
    """Any order of calls: never over budget, books balance, never a wrong block, restarts lose nothing."""

    def __init__(self):
        super().__init__()
        import tempfile

        logging.disable(logging.CRITICAL)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.store = open_store(self.path, 8 * ONE)

    ids = st.integers(0, 15)
    spaces = st.sampled_from([SPACE, OTHER])

    @rule(i=ids, space=spaces, complete=st.booleans())
    def put(self, i, space, complete):
        parent = key(i - 1) if i % 4 else None
        self.store.put(space, key(i), parent, content(i), {"n": i, "complete": complete})
        assert self.store.flush(10)

    @rule(i=ids, space=spaces)
    def get(self, i, space):
        there = self.store.contains(space, key(i))
        assert has(self.store, i, space) == there

    @rule()
    def restart(self):
        held = {(e.name.namespace, e.name.key) for e in self.store.entries()}
        self.store.close()
        self.store = open_store(self.path, 8 * ONE)
        assert {(e.name.namespace, e.name.key) for e in self.store.entries()} == held

    @rule(budget=st.integers(0, 20_000), space=st.one_of(st.none(), spaces))
    def prune(self, budget, space):
        self.store.prune(budget, space)
        assert self.store.stats().bytes <= budget

    @invariant()
    def books_balance(self):
        self.store.check_books()
        assert bytes_in(self.path) == self.store.stats().bytes <= 8 * ONE

    def teardown(self):
        self.store.close()
        self.folder.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
