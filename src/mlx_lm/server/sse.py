"""Server-sent events: frames, keep-alive comments, mid-stream errors, and a response that ends with its client.

The WHATWG "Server-sent events" wire format, as the OpenAI and Anthropic clients read it. This module does not know what
a frame says, nor how an error looks: the protocol gives a function for that.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["DONE", "KEEP_ALIVE", "EventStream", "compact_json", "frame", "unless_disconnected"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def compact_json(value: Any) -> str:
    """JSON without spaces and with its letters as they are; ValueError for NaN or infinity."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def frame(data: Any, event: str | None = None) -> bytes:
    """One event: `data` as JSON on one line (JSON escapes line ends), under a name when `event` is given."""
    name = f"event: {event}\n" if event else ""
    # A lone surrogate cannot be written as UTF-8; the question mark keeps the stream alive.
    return f"{name}data: {compact_json(data)}\n\n".encode("utf-8", errors="replace")


class EventStream(Response):
    """Sends frames as they come; a comment when none came for a while; an error frame when the source fails.

    The source is closed when the client leaves, when it reads nothing for `write_seconds`, or at the end: whatever the
    source holds (a job of the engine) must be given back in its `finally`.

    Args:
        frames: an async generator of whole frames.
        on_error: the frames that tell the client of an error, which then ends the stream.
        keep_alive: bytes sent after each `keep_alive_seconds` of silence.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        on_error: Callable[[Exception], bytes],
        keep_alive: bytes = KEEP_ALIVE,
        keep_alive_seconds: float = 10.0,
        write_seconds: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ):
        self.frames = frames
        self.on_error = on_error
        self.keep_alive = keep_alive
        self.keep_alive_seconds = keep_alive_seconds
        self.write_seconds = write_seconds
        self.status_code = 200
        self.background = None
        self.body = b""
        # A proxy that buffers would hold the tokens back.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        try:
            await _first_of(writer, receive)
        except (ClientDisconnect, OSError, TimeoutError):
            logger.debug("the client left before its stream was over")
        finally:
            await _end(writer)
            await self.frames.aclose()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pieces = self._pieces()
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                async with asyncio.timeout(self.write_seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        waiting: asyncio.Future[bytes] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(anext(self.frames))
                done, _ = await asyncio.wait({waiting}, timeout=self.keep_alive_seconds)
                if not done:
                    yield self.keep_alive
                    continue
                ready, waiting = waiting, None
                try:
                    piece = ready.result()
                except StopAsyncIteration:
                    return
                except Exception as error:
                    piece = self.on_error(error)
                    yield piece
                    return
                yield piece
        finally:
            if waiting is not None:
                await _end(waiting)


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` gives; when the client leaves first, `work` is cancelled and ClientDisconnect raised."""
    task = asyncio.ensure_future(work)
    try:
        return await _first_of(task, receive)
    finally:
        await _end(task)


async def _first_of(task: asyncio.Future[T], receive: Receive) -> T:
    """The task's result, or ClientDisconnect when the client leaves before it is done."""
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(leaving)
    if not task.done():
        raise ClientDisconnect
    return task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancels a task and waits until it is over; its outcome has been seen elsewhere or matters no more."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
        await task
