"""`LRUPromptCache`: whole prompt caches by their tokens, for programs that keep their own, in memory and on disk.

The engine itself reuses blocks (`engine.prefix`); this is the cache that mlx-lm's users know, on the same disk store.
It knows nothing of models: `model` is any hashable name. For the disk, names of models and folders stand for the
content of their files, so a model that was replaced in place finds nothing of the old one.
"""

import contextlib
import hashlib
import logging
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from ..errors import MLXLMError
from ..state import State
from ..state.store import pack_states, unpack_states
from .prefix.buffers import to_array, to_buffer
from .prefix.disk import DiskStore
from .prefix.keys import namespace

__all__ = ["LRUPromptCache"]

_log = logging.getLogger(__name__)

CacheType = Literal["assistant", "user", "system"]
_ORDER: tuple[CacheType, ...] = ("assistant", "user", "system")  # what goes first
_QUEUE_SHARE = 4  # a quarter of the disk budget may wait to be written: one entry is one file


@dataclass
class _Entry:
    cache: list[State]
    kind: CacheType
    nbytes: int


class LRUPromptCache:
    """At most `max_size` prompt caches and `max_bytes` of them, least recently used first out.

    Args:
        max_size: entries in memory.
        max_bytes: bytes in memory.
        disk_cache_dir: entries are also written to this folder and outlive the process; None for memory only.
        disk_cache_bytes: of files in that folder.
        disk_cache_min_tokens: shorter entries are not written to disk.
    """

    def __init__(
        self,
        max_size: int = 10,
        max_bytes: int = 1 << 63,
        *,
        disk_cache_dir: str | Path | None = None,
        disk_cache_bytes: int = 4 * 2**30,
        disk_cache_min_tokens: int = 256,
    ):
        self.max_size = max_size
        self.max_bytes = max_bytes
        self.disk_cache_min_tokens = max(disk_cache_min_tokens, 1)
        self.disk: DiskStore | None = None
        self._entries: OrderedDict[tuple[Hashable, tuple[int, ...]], _Entry] = OrderedDict()
        self._spaces: dict[Hashable, bytes | None] = {}
        if disk_cache_dir is not None:
            queue = max(disk_cache_bytes // _QUEUE_SHARE, 256 * 2**20)
            self.disk = DiskStore(disk_cache_dir, budget_bytes=disk_cache_bytes, max_queue_bytes=queue)
            weakref.finalize(self, self.disk.close)  # also at the interpreter's end

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(entry.nbytes for entry in self._entries.values())

    def fetch_nearest_cache(self, model: Hashable, tokens: Sequence[int]) -> tuple[list[State] | None, list[int]]:
        """A copy of the cache that knows the longest beginning of `tokens`, and the tokens that it does not know.

        An entry that goes on differently serves too when its states can take tokens back. (None, tokens) without any.
        """
        wanted = tuple(tokens)
        best, known = self._nearest(model, wanted)
        if self.disk is not None:
            found = self._from_disk(model, wanted, known)
            if found is not None:
                best, known = found, len(found[1])
        if best is None:
            return None, list(wanted)
        self._entries.move_to_end(best)
        cache = [state.copy() for state in self._entries[best].cache]
        for state in cache:
            state.trim(len(best[1]) - known)
        return cache, list(wanted[known:])

    def insert_cache(
        self,
        model: Hashable,
        tokens: Sequence[int],
        prompt_cache: Sequence[State],
        *,
        cache_type: CacheType = "assistant",
    ) -> None:
        """Keeps the states after `tokens`; they belong to this object from now on.

        States that can take tokens back replace the entries of their beginnings.
        """
        self._insert(model, tuple(tokens), list(prompt_cache), cache_type)
        if self.disk is not None and len(tokens) >= self.disk_cache_min_tokens:
            try:
                self._to_disk(self.disk, model, tokens, prompt_cache)
            except Exception:  # a cache that cannot store is a slower program, not a broken one
                _log.exception("A prompt cache could not be written")

    def trim_to(self, *, n_sequences: int | None = None, n_bytes: int | None = None) -> None:
        """Drops entries until at most this many, of this many bytes, are in memory: answers first, systems last."""
        sequences = len(self) if n_sequences is None else max(n_sequences, 0)
        nbytes = self.nbytes
        limit = nbytes if n_bytes is None else max(n_bytes, 0)
        while self._entries and (len(self) > sequences or nbytes > limit):
            victim = min(self._entries, key=lambda key: _ORDER.index(self._entries[key].kind))
            nbytes -= self._entries.pop(victim).nbytes

    def stats_by_type(self) -> dict[str, dict[str, int]]:
        """For each type: `n_sequences` and `n_bytes`, in memory."""
        stats: dict[str, dict[str, int]] = {kind: {"n_sequences": 0, "n_bytes": 0} for kind in _ORDER}
        for entry in self._entries.values():
            stats[entry.kind]["n_sequences"] += 1
            stats[entry.kind]["n_bytes"] += entry.nbytes
        return stats

    def close(self) -> None:
        """Writes what waits for the disk and gives the folder back."""
        if self.disk is not None:
            self.disk.close()

    def _nearest(self, model: Hashable, wanted: tuple[int, ...]) -> tuple[tuple[Hashable, tuple[int, ...]] | None, int]:
        best, known = None, 0
        for place, entry in self._entries.items():
            if place[0] != model:
                continue
            held = place[1]
            usable = _common(held, wanted)
            if usable < len(held):  # at least one token is left to compute
                usable = min(usable, len(wanted) - 1)
                if not all(state.can_trim(len(held) - usable) for state in entry.cache):
                    continue
            if usable > known:
                best, known = place, usable
        return best, known

    def _insert(self, model: Hashable, tokens: tuple[int, ...], cache: list[State], kind: CacheType) -> None:
        if all(state.is_trimmable() for state in cache):
            for place in [p for p in self._entries if p[0] == model and p[1] == tokens[: len(p[1])]]:
                del self._entries[place]
        self._entries[model, tokens] = _Entry(cache, kind, sum(state.nbytes for state in cache))
        self._entries.move_to_end((model, tokens))
        self.trim_to(n_sequences=self.max_size, n_bytes=self.max_bytes)

    # The disk: one file for each entry, keyed by all its tokens.

    def _to_disk(self, disk: DiskStore, model: Hashable, tokens: Sequence[int], cache: Sequence[State]) -> None:
        space = self._space(model)
        if space is None or disk.read_only:
            return
        key = _digests(tokens)[-1]
        if disk.contains(space, key):
            return
        arrays, fields = pack_states(cache)
        arrays = {name: mx.contiguous(a) for name, a in arrays.items()}
        mx.eval(arrays)
        disk.put(space, key, None, {n: to_buffer(a) for n, a in arrays.items()}, {**fields, "tokens": len(tokens)})

    def _from_disk(
        self, model: Hashable, wanted: tuple[int, ...], known: int
    ) -> tuple[Hashable, tuple[int, ...]] | None:
        """Takes the longest stored beginning that is longer than `known` into memory; its place, or None."""
        space = self._space(model)
        if self.disk is None or space is None or len(wanted) < self.disk_cache_min_tokens or len(wanted) <= known:
            return None
        digests = _digests(wanted)
        for length in range(len(wanted), max(known, self.disk_cache_min_tokens - 1), -1):
            if not self.disk.contains(space, digests[length - 1]):
                continue
            stored = self.disk.get(space, digests[length - 1])
            if stored is None or stored.meta.get("tokens") != length:
                continue
            try:
                states = unpack_states({n: to_array(b) for n, b in stored.arrays.items()}, stored.meta)
            except (MLXLMError, KeyError, TypeError, ValueError):
                continue
            self._insert(model, wanted[:length], states, "system")
            place = model, wanted[:length]
            return place if place in self._entries else None
        return None

    def _space(self, model: Hashable) -> bytes | None:
        if model not in self._spaces:
            parts = _identity(model)
            self._spaces[model] = None if parts is None else namespace({"kind": "whole", "model": parts})
        return self._spaces[model]


def _identity(part: Any) -> Any:
    """What a model's name stands for, JSON-able; None when the name means nothing to another process."""
    if isinstance(part, (list, tuple)):
        parts = [_identity(p) if p is not None else "" for p in part]
        return None if None in parts else parts
    if not isinstance(part, (str, Path, int, float, bool)):
        return None
    if not isinstance(part, (str, Path)):
        return part
    from ..hub import fingerprint, resolve

    with contextlib.suppress(MLXLMError, OSError):
        files = resolve(str(part), allow_download=False, progress=False)
        return fingerprint(files.gguf or files.folder)
    path = Path(part).expanduser()
    if not path.exists():
        return str(part)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [[str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:  # equal up to low, unequal up to high
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def _digests(tokens: Sequence[int]) -> list[bytes]:
    """A key for every beginning of `tokens`; 1.2 microseconds each."""
    digest, keys = hashlib.blake2b(digest_size=16), []
    data = array("q", tokens).tobytes()
    for end in range(8, len(data) + 1, 8):
        digest.update(data[end - 8 : end])
        keys.append(digest.copy().digest())
    return keys
