"""Several works as one reply: the answers to a list of prompts, and `n` answers to each.

Works are opened in order and a few at a time, so that one client's list neither fills the queue nor fails on a queue
that its own works fill. Knows nothing of what the works say.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from ...errors import OverloadedError
from ..service import Answer, Job, Service, collect
from ..work import Work, WorkEvent

__all__ = ["WINDOW", "JobGroup"]

# Works of one request that are open at a time: more than the engine's usual batch would only wait in its queue.
WINDOW = 32


class JobGroup:
    """The jobs of one request. `open` admits the first; leaving the `async with` cancels what still runs."""

    def __init__(self, service: Service, works: Sequence[Work], window: int = WINDOW):
        self._service = service
        self._works = works
        self._window = window
        self._first: Job | None = None

    @classmethod
    async def open(cls, service: Service, works: Sequence[Work], window: int = WINDOW) -> "JobGroup":
        """Admits the first work, so that what can be refused is refused before a reply begins. Raises as `open`."""
        group = cls(service, works, window)
        group._first = await service.open(works[0])
        return group

    @property
    def model(self) -> str:
        """The id of the model that answers."""
        assert self._first is not None
        return self._first.model

    async def __aenter__(self) -> "JobGroup":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._first is not None:
            await self._first.cancel()

    async def answers(self) -> list[Answer]:
        """Every answer, in the order of the works; raises what the first failing job raises."""
        found: dict[int, Answer] = {}

        async def one(index: int, job: Job) -> None:
            found[index] = await collect(job)

        await self._each(one)
        return [found[index] for index in range(len(self._works))]

    async def events(self) -> AsyncGenerator[tuple[int, WorkEvent], None]:
        """Events of all jobs as they come, each with the index of its work."""
        if len(self._works) == 1 and self._first is not None:
            async with self._first as job:
                async for event in job:
                    yield 0, event
            return
        # Not bounded: a reader that stands still is dropped by the stream's own limit.
        queue: asyncio.Queue[tuple[int, WorkEvent] | None] = asyncio.Queue()

        async def one(index: int, job: Job) -> None:
            async for event in job:
                queue.put_nowait((index, event))

        task = asyncio.create_task(self._each(one))
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (item := await queue.get()) is not None:
                yield item
            await task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def _each(self, handle: Callable[[int, Job], Awaitable[None]]) -> None:
        waiting = deque(range(len(self._works)))
        running: set[asyncio.Task[None]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < self._window:
                    try:
                        job = await self._job(waiting[0])
                    except OverloadedError:
                        if not running:  # not even one fits: it is others who fill the queue
                            raise
                        break
                    running.add(asyncio.create_task(self._one(handle, waiting.popleft(), job)))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _job(self, index: int) -> Job:
        if index == 0 and self._first is not None:
            return self._first
        return await self._service.open(self._works[index])

    @staticmethod
    async def _one(handle: Callable[[int, Job], Awaitable[None]], index: int, job: Job) -> None:
        async with job:
            await handle(index, job)
