"""The memory index against a plain model: never over budget, books balance, leaves go first, oldest first."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlx_lm.engine.prefix.index import BlockIndex

KEYS = st.integers(0, 15).map(lambda i: b"%02d" % i)


def parent_of(key: bytes) -> bytes | None:
    i = int(key)
    return None if i % 4 == 0 else b"%02d" % (i - 1)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.index = BlockIndex(100)

    @rule(key=KEYS, size=st.integers(1, 60), complete=st.booleans())
    def put(self, key, size, complete):
        old = self.index.get(key)
        before = (old.payload, old.complete) if old else None
        payload = object()
        held = self.index.put(key, parent_of(key), payload, size, complete=complete)
        new = self.index.get(key)
        if not held:
            assert (new.payload, new.complete) == before if new else before is None
        elif before is not None and (before[1] or not complete):
            assert (new.payload, new.complete) == before  # what is as good already is kept
        else:
            assert new.payload is payload and new.complete == complete and new.nbytes == size

    @rule(key=KEYS)
    def remove(self, key):
        self.index.remove(key)
        assert key not in self.index

    @rule(length=st.integers(1, 4), first=st.sampled_from([0, 4, 8, 12]))
    def touch(self, length, first):
        before = len(self.index)
        self.index.touch([b"%02d" % (first + i) for i in range(length)])
        assert len(self.index) == before

    @rule(budget=st.integers(0, 100))
    def trim(self, budget):
        self.index.trim_to(budget)
        assert self.index.nbytes <= budget

    @invariant()
    def books_balance(self):
        self.index.check()


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def chains(index: BlockIndex, *names: bytes, length: int = 3, size: int = 10) -> dict[bytes, list[bytes]]:
    made = {}
    for name in names:
        keys = [name + b"%d" % i for i in range(length)]
        for i, key in enumerate(keys):
            assert index.put(key, keys[i - 1] if i else None, key, size, complete=True)
        made[name] = keys
    return made


def test_the_oldest_chain_goes_leaf_first():
    index = BlockIndex(90)
    made = chains(index, b"a", b"b", b"c")
    index.touch(made[b"a"])
    for i, gone in enumerate([b"b2", b"b1", b"b0", b"c2", b"c1", b"c0"]):
        assert gone in index
        assert index.put(b"x%d" % i, b"x%d" % (i - 1) if i else None, None, 10, complete=True)
        assert gone not in index
    assert all(key in index for key in made[b"a"]) and index.evicted == 6


def test_a_chain_never_evicts_what_it_hangs_on():
    index = BlockIndex(30)
    (keys,) = chains(index, b"a").values()
    assert not index.put(b"a3", keys[-1], None, 10, complete=True)
    assert all(key in index for key in keys)


@given(st.integers(31, 100))
def test_what_can_never_fit_changes_nothing_it_needs(size):
    index = BlockIndex(30)
    assert not index.put(b"x", None, None, size, complete=True)
    index.check()


def test_deep_chains():
    index = BlockIndex(10**6)
    (keys,) = chains(index, b"a", length=5000, size=1).values()
    index.remove(keys[1])
    assert len(index) == 1
    index.check()


def test_touching_marks_leaves_as_older_than_their_parents():
    index = BlockIndex(60)
    made = chains(index, b"a", b"b")
    index.touch(made[b"a"])
    index.touch(made[b"b"][:1])  # a short hit on the other chain
    index.trim_to(50)
    assert b"b2" not in index
