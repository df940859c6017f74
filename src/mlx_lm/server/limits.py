"""Limits of connections: how long and how large headers and bodies may be, and how many connections there are.

Contract: a client that sends slowly, or too much, is answered 408 or 413 and cut off; it never holds memory or a place
for longer than `read_timeout`. Pure HTTP: nothing here knows what requests mean.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import HTTPError, error_response
from .options import ServerSettings

__all__ = ["BodyLimit", "limited_protocol"]


class BodyLimit:
    """An ASGI layer: a body larger than `max_body_bytes` is 413, one that takes too long 408."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._most = settings.max_body_bytes
        self._seconds = settings.read_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._most:
            error = HTTPError(413 if length.isdecimal() else 400, f"The body may have at most {self._most:,} bytes.")
            response = error_response(request, error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        read, complete = 0, False

        async def limited() -> Message:
            nonlocal read, complete
            if complete:
                return await receive()  # what comes now is the client's leaving
            try:
                message = await asyncio.wait_for(receive(), max(end - loop.time(), 0.001))
            except TimeoutError:
                raise HTTPError(408, f"The body did not come within {self._seconds:g} s.") from None
            read += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if read > self._most:
                raise HTTPError(413, f"The body may have at most {self._most:,} bytes.")
            return message

        await self._app(scope, limited, send)


def limited_protocol(most_connections: int, header_seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 with a limit of connections, and of the time until a request's headers are complete."""

    class LimitedProtocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most_connections:
                transport.abort()
                return
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._expect()
            else:
                self._expect_no_more()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_no_more()
            super().connection_lost(exc)

        def _expect(self) -> None:
            if self._late is None and not self.transport.is_closing():
                self._late = self.loop.call_later(header_seconds, self.transport.abort)

        def _expect_no_more(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return LimitedProtocol
