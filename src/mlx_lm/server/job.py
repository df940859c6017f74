"""One admitted work: events of the engine, read on the event loop, as events of the work.

Contract: the engine's thread puts events into the job, the loop reads them. Whatever ends the job, by itself, by an
error or by its client's leaving, its request leaves the engine within one step and its lease is given back once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from ..engine.thread import Ticket
from .metrics import Metrics
from .output import OutputReader, TokenNote
from .prompt import Prepared
from .residency import Lease
from .work import Finished, Progress, Started, Text, Usage, Work, WorkEvent

__all__ = ["Ended", "EngineJob", "TokenCame"]


@dataclass(frozen=True)
class TokenCame:
    """A token, with its numbers if they were asked for; `reason` with the last."""

    token: int
    note: TokenNote | None
    reason: str | None


@dataclass(frozen=True)
class Ended:
    """The request failed."""

    error: BaseException


class EngineJob:
    """See `service.Job`."""

    def __init__(
        self,
        work: Work,
        prepared: Prepared,
        lease: Lease,
        reader: OutputReader,
        metrics: Metrics,
        on_end: Callable[[], None],
        echoed: Text | None = None,
    ) -> None:
        self.model = lease.loaded.id
        self.prompt_tokens = len(prepared.tokens)
        self.started = False
        self._work = work
        self._prepared = prepared
        self._lease = lease
        self._reader = reader
        self._metrics = metrics
        self._on_end = on_end
        self._echoed = echoed
        self._queue: asyncio.Queue[TokenCame | Progress | Ended | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ticket: Ticket | None = None
        self._closed = False
        self._over = False  # it ended by itself
        self._heard = False  # whether the engine has said anything
        self._refused: BaseException | None = None
        self._cached = 0
        self._last = 0.0
        self._opened = time.monotonic()
        self._end_tokens = lease.loaded.tokenizer.eos_token_ids

    # The engine's side.

    def put(self, item: TokenCame | Progress | Ended, cached: int | None = None) -> None:
        """Called on the engine's thread."""
        if cached is not None:
            self._cached = cached
        if isinstance(item, Ended) and not self._heard:
            self._refused = item.error
        self._heard = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    def attach(self, ticket: Ticket) -> None:
        """Names the request in the engine; a job that was closed before cancels it at once."""
        self._ticket = ticket
        if self._closed:
            ticket.cancel()

    def admission_error(self) -> BaseException | None:
        """What the engine refused the request with, once it has looked at it."""
        return self._refused

    # The client's side.

    def __aiter__(self) -> AsyncIterator[WorkEvent]:
        return self._events()

    async def _events(self) -> AsyncIterator[WorkEvent]:
        try:
            if self._prepared.max_tokens == 0:  # only the prompt is wanted, echoed and scored
                for event in (*self._start(), *self._finished("length")):
                    yield event
            while not self._closed:
                item = await self._queue.get()
                if item is None:
                    return
                if isinstance(item, Ended):
                    self._over = True
                    self._metrics.failed(item.error)
                    raise item.error
                for event in self._read(item):
                    yield event
        finally:
            self._close()

    def _read(self, item: TokenCame | Progress) -> list[WorkEvent]:
        if isinstance(item, Progress):
            return [item] if item.done < item.total else []
        now = time.monotonic()
        events: list[WorkEvent] = []
        if not self.started:
            events += self._start()
        else:
            self._metrics.next_token(now - self._last)
        self._last = now
        ends = item.token in self._end_tokens and item.reason == "stop"
        events += self._reader.add(item.token, item.note, ends=ends)
        if item.reason is not None or self._reader.ended:
            events += self._finished(item.reason or "stop")
        return events

    def _start(self) -> list[WorkEvent]:
        self.started = True
        self._metrics.first_token(time.monotonic() - self._opened, self.prompt_tokens, self._cached)
        started = Started(self.prompt_tokens, self._cached)
        return [started] if self._echoed is None else [started, self._echoed]

    def _finished(self, reason: str) -> list[WorkEvent]:
        reader = self._reader
        events = reader.finish(cut=reason == "length")
        count = reader.completion_tokens
        full = not self._prepared.asked and count >= (self._prepared.max_tokens or count + 1)
        usage = Usage(self.prompt_tokens, self._cached, count, reader.reasoning_tokens)
        ended = Finished(reader.reason(reason, context_full=full), usage, reader.stopped)
        self._over = True
        self._metrics.finished(ended.reason, count, time.monotonic() - self._opened)
        self._close()
        return [*events, ended]

    async def cancel(self) -> None:
        """Ends the job within one step; harmless when it has ended."""
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ticket is not None:
            self._ticket.cancel()
        if not self._over:
            self._metrics.cancelled()
        self._queue.put_nowait(None)  # wakes whoever reads
        self._lease.release()
        self._on_end()

    async def __aenter__(self) -> EngineJob:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    @property
    def details(self) -> dict[str, Any]:
        """For the live view: what it answers and how far it is."""
        return {
            "id": self._work.request_id,
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self._reader.completion_tokens,
            "seconds": round(time.monotonic() - self._opened, 3),
            "state": "running" if self.started else "waiting",
        }
