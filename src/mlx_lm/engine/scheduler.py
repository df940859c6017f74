"""Which sequence computes what next. Pure Python: it sees ids and counts, never tokens or arrays.

Each step plans at most one piece of one prompt and one decode of all running sequences.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Plan", "Policy", "Scheduler"]

Policy = Literal["fair", "prefill_first", "decode_first"]


@dataclass(frozen=True)
class Plan:
    """One step: compute `length` prompt tokens of sequence `prefill`, then one token for each of `decode`."""

    prefill: int | None
    length: int
    decode: tuple[int, ...]


@dataclass
class _Entry:
    uid: int
    remaining: int
    priority: int
    order: int


@dataclass
class Scheduler:
    """Admits prompts in order of priority and arrival, and shares steps between prompts and running sequences.

    Args:
        max_batch: sequences that decode together; a prompt waits while the batch is full.
        prefill_step: most prompt tokens in one step.
        policy: "fair" alternates; "prefill_first" pauses decoding while prompts are pending and the batch has room,
            for at most `max_pause` steps; "decode_first" computes prompts only when nothing decodes.
    """

    max_batch: int = 32
    prefill_step: int = 2048
    policy: Policy = "fair"
    max_pause: int = 64
    _waiting: list[_Entry] = field(default_factory=list)
    _running: dict[int, None] = field(default_factory=dict)
    _arrivals: int = 0
    _paused: int = 0

    def add(self, uid: int, prompt_tokens: int, priority: int = 0) -> None:
        """A new sequence whose prompt has `prompt_tokens` tokens to compute."""
        self._waiting.append(_Entry(uid, prompt_tokens, priority, self._arrivals))
        self._arrivals += 1
        self._waiting.sort(key=lambda e: (-e.priority, e.order))

    def remove(self, uid: int) -> None:
        """Forgets a sequence, wherever it stands."""
        self._waiting = [e for e in self._waiting if e.uid != uid]
        self._running.pop(uid, None)

    def prefilled(self, uid: int, tokens: int) -> bool:
        """Records that `tokens` of a prompt are done; True when the whole prompt is, and the sequence decodes."""
        entry = next(e for e in self._waiting if e.uid == uid)
        entry.remaining -= tokens
        if entry.remaining > 0:
            return False
        self._waiting.remove(entry)
        self._running[uid] = None
        return True

    @property
    def waiting(self) -> tuple[int, ...]:
        return tuple(e.uid for e in self._waiting)

    @property
    def running(self) -> tuple[int, ...]:
        return tuple(self._running)

    def plan(self) -> Plan | None:
        """The next step, or None when there is nothing to do."""
        decode = self.running
        full = len(decode) >= self.max_batch
        entry = self._waiting[0] if self._waiting and not full else None
        if entry is not None and decode and self.policy == "decode_first":
            entry = None
        if entry is not None and decode and self.policy == "prefill_first" and self._paused < self.max_pause:
            self._paused += 1
            decode = ()
        else:
            self._paused = 0
        if entry is None and not decode:
            return None
        length = 0 if entry is None else min(entry.remaining, self.prefill_step)
        return Plan(None if entry is None else entry.uid, length, decode)

    def check(self) -> None:
        """Raises AssertionError when the books do not balance."""
        uids = [e.uid for e in self._waiting] + list(self._running)
        assert len(uids) == len(set(uids)), "a sequence is listed twice"
        assert all(e.remaining > 0 for e in self._waiting), "a finished prompt is still waiting"
        assert len(self._running) <= self.max_batch, "more sequences run than the batch holds"
