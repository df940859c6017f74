"""What lies on disk and in which order it goes: the disk store's books. Pure Python, no I/O.

Entries form chains as in memory: one is of use only with all its ancestors, so a use of a block is a use of its
ancestors too, and leaves go first. Chains of namespaces that nobody in this process uses, and files of other format
versions, go before anything else. The module does not know files.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .folder import Name
from .frame import VERSION

__all__ = ["DiskEntry", "DiskIndex"]


@dataclass
class DiskEntry:
    """One file: its name, bytes, the tick and the wall-clock time of its last use."""

    name: Name
    size: int
    used: int
    when: float


class DiskIndex:
    """Entries by namespace and key, each namespace in the order of use."""

    def __init__(self) -> None:
        self.nbytes = 0
        self.active: set[bytes] = set()  # namespaces that this process uses
        self._spaces: dict[bytes, OrderedDict[bytes, DiskEntry]] = {}
        self._children: dict[tuple[bytes, bytes], int] = {}
        self._foreign: list[DiskEntry] = []  # of other versions
        self._ticks = itertools.count()

    def __len__(self) -> int:
        return sum(len(space) for space in self._spaces.values()) + len(self._foreign)

    def __iter__(self) -> Iterator[DiskEntry]:
        yield from list(self._foreign)
        for space in list(self._spaces.values()):
            yield from list(space.values())

    def get(self, namespace: bytes, key: bytes) -> DiskEntry | None:
        """The entry, without touching it."""
        return self._spaces.get(namespace, {}).get(key)

    def fill(self, found: Iterable[tuple[Name, int, float]]) -> list[Name]:
        """Takes in a listing, in the order of last use; returns names that another one makes useless."""
        entries: dict[tuple[bytes, bytes], DiskEntry] = {}
        useless: list[Name] = []
        for name, size, when in sorted(found, key=lambda item: item[0].complete):
            entry = DiskEntry(name, size, 0, when)
            if name.version != VERSION:
                self._foreign.append(entry)
                self.nbytes += size
                continue
            old = entries.get((name.namespace, name.key))
            if old is not None:  # a crash between writing the whole block and removing the part
                useless.append(old.name)
            entries[name.namespace, name.key] = entry
        depths = _depths(entries)
        for place, entry in sorted(entries.items(), key=lambda item: -depths[item[0]]):
            parent = entries.get((place[0], entry.name.parent or b""))
            if parent is not None and depths[place]:
                parent.when = max(parent.when, entry.when)
        for place, entry in sorted(entries.items(), key=lambda item: (item[1].when, -depths[item[0]])):
            self._insert(place, entry)
        return useless

    def add(self, name: Name, size: int, when: float) -> None:
        """Adds or replaces an entry as the one used last."""
        self.discard(name.namespace, name.key)
        self._insert((name.namespace, name.key), DiskEntry(name, size, 0, when))
        self.touch(name.namespace, name.key, when)

    def touch(self, namespace: bytes, key: bytes, when: float) -> None:
        """Marks an entry and its ancestors as just used; the ancestors count as used after it."""
        space = self._spaces.get(namespace, OrderedDict())
        entry, seen = space.get(key), 0
        while entry is not None and seen <= len(space):  # names can lie: no endless walk in a circle
            entry.used, entry.when = next(self._ticks), when
            space.move_to_end(entry.name.key)
            entry, seen = space.get(entry.name.parent or b""), seen + 1

    def discard(self, namespace: bytes, key: bytes) -> DiskEntry | None:
        """Forgets an entry and returns it."""
        entry = self._spaces.get(namespace, {}).pop(key, None)
        if entry is None:
            return None
        self.nbytes -= entry.size
        if not self._spaces[namespace]:
            del self._spaces[namespace]
        if entry.name.parent is not None:
            self._children[namespace, entry.name.parent] -= 1
            if not self._children[namespace, entry.name.parent]:
                del self._children[namespace, entry.name.parent]
        return entry

    def drop(self, entry: DiskEntry) -> None:
        """Forgets exactly this entry, of whatever version."""
        if entry in self._foreign:
            self._foreign.remove(entry)
            self.nbytes -= entry.size
        elif self.get(entry.name.namespace, entry.name.key) is entry:
            self.discard(entry.name.namespace, entry.name.key)

    def victim(self, spared: set[tuple[bytes, bytes]]) -> DiskEntry | None:
        """What should go next: other versions, namespaces not in use, then the least recently used leaf."""
        for entry in self._foreign:
            if (entry.name.namespace, entry.name.key) not in spared:
                return entry
        idle = [space for name, space in self._spaces.items() if name not in self.active]
        for spaces in (idle, [space for name, space in self._spaces.items() if name in self.active]):
            leaves = [leaf for space in spaces if (leaf := self._leaf(space, spared)) is not None]
            if leaves:
                return min(leaves, key=lambda entry: entry.used)
        return None

    def check(self) -> None:
        """Raises AssertionError when the books do not balance."""
        assert self.nbytes == sum(entry.size for entry in self), "bytes do not add up"
        children: dict[tuple[bytes, bytes], int] = {}
        for namespace, space in self._spaces.items():
            assert space, "an empty namespace is kept"
            ticks = [entry.used for entry in space.values()]
            assert ticks == sorted(ticks), "out of order"
            for key, entry in space.items():
                assert (entry.name.namespace, entry.name.key) == (namespace, key), "misplaced"
                if entry.name.parent is not None:
                    place = namespace, entry.name.parent
                    children[place] = children.get(place, 0) + 1
        assert children == self._children, "children are miscounted"

    def _insert(self, place: tuple[bytes, bytes], entry: DiskEntry) -> None:
        namespace, key = place
        entry.used = next(self._ticks)
        self._spaces.setdefault(namespace, OrderedDict())[key] = entry
        self.nbytes += entry.size
        if entry.name.parent is not None:
            parent = namespace, entry.name.parent
            self._children[parent] = self._children.get(parent, 0) + 1

    def _leaf(self, space: OrderedDict[bytes, DiskEntry], spared: set[tuple[bytes, bytes]]) -> DiskEntry | None:
        # Ancestors are touched after their children, so a leaf is found at or near the front.
        oldest = None
        for key, entry in space.items():
            place = entry.name.namespace, key
            if place in spared:
                continue
            if not self._children.get(place):
                return entry
            oldest = oldest or entry
        return oldest  # only names that lie form a circle without leaves


def _depths(entries: dict[tuple[bytes, bytes], DiskEntry]) -> dict[tuple[bytes, bytes], int]:
    """How many ancestors of each entry are there."""
    depths: dict[tuple[bytes, bytes], int] = {}
    for place in entries:
        walk: list[tuple[bytes, bytes]] = []
        at: tuple[bytes, bytes] | None = place
        while at is not None and at in entries and at not in depths and len(walk) <= len(entries):
            walk.append(at)
            parent = entries[at].name.parent
            at = None if parent is None else (at[0], parent)
        depth = depths.get(at, -1) if at is not None else -1
        for at in reversed(walk):
            depth += 1
            depths[at] = depth
    return depths
