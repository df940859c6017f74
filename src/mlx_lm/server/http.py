"""What every protocol adapter does with a request: read its JSON, wait with an eye on the client, stream events.

Contract: a body is read with its limit as it arrives; what is not JSON text of valid Unicode is a 400 that says so. A
client that hangs up cancels what is done for it, streaming or not. An error in the middle of a stream is one more event
in the vendor's shape, never a silent end. Nothing here knows a protocol's fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from .errors import HTTPError, classify

__all__ = ["event_stream", "read_json", "sse", "until_disconnect", "work_context"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 15.0
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises HTTPError 400, 413 or 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        # Also keeps web pages out: a browser sends other types across origins without asking first.
        raise HTTPError(415, "The body must be JSON, with the header Content-Type: application/json.")
    body = await request.body()
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # an escape may name half a surrogate pair
    except UnicodeError as error:
        raise HTTPError(400, "The body is not valid UTF-8 text.", code="invalid_json") from error
    except RecursionError as error:
        raise HTTPError(400, "The body is nested too deeply.", code="invalid_json") from error
    except ValueError as error:
        raise HTTPError(400, f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise HTTPError(400, "The body must be a JSON object.", code="invalid_json")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def work_context(request: Request) -> dict[str, Any]:
    """The `Work` fields that come from the connection: `cache_salt` of the client's key, and `request_id`."""
    state = request.state
    return {"cache_salt": getattr(state, "cache_salt", ""), "request_id": getattr(state, "request_id", "")}


async def until_disconnect(request: Request, work: Awaitable[_T]) -> _T:
    """Waits for `work`; cancels it, and raises ClientDisconnect, when the client hangs up first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for waiting in (task, gone):
            if not waiting.done():
                waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await waiting


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event; `data` is text, or becomes JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {text}\n\n".encode()


def event_stream(
    request: Request,
    events: AsyncIterator[bytes],
    on_error: Callable[[BaseException], bytes],
    *,
    keepalive: bytes = b": keepalive\n\n",
) -> StreamingResponse:
    """A reply of server-sent events.

    Args:
        events: chunks, mostly of `sse`; an async generator whose `finally` leaves the job.
        on_error: the vendor's event for an error that comes after the headers were sent.
        keepalive: sent whenever nothing else was for 15 s.

    A client that hangs up, or reads nothing while the server's buffers are full, ends `events`.
    """
    headers = {**_STREAM_HEADERS, "X-Request-Id": getattr(request.state, "request_id", "")}
    return StreamingResponse(
        _guarded(request, events, on_error, keepalive), media_type="text/event-stream", headers=headers
    )


async def _guarded(
    request: Request, events: AsyncIterator[bytes], on_error: Callable[[BaseException], bytes], keepalive: bytes
) -> AsyncIterator[bytes]:
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(events))
            while not (await asyncio.wait({following}, timeout=KEEPALIVE_SECONDS))[0]:
                yield keepalive
            yield following.result()
    except StopAsyncIteration:
        return
    except Exception as error:
        if classify(error).status >= 500:
            request_id = getattr(request.state, "request_id", "")
            _log.error("Request %s to %s failed while streaming", request_id, request.url.path, exc_info=error)
        yield on_error(error)
    finally:
        if following is not None and not following.done():
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception, StopAsyncIteration):
                await following
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
