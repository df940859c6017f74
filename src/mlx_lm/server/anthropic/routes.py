"""The routes of Anthropic's protocol, over any `Service`.

Contract: `POST /v1/messages` (streamed or not), `POST /v1/messages/count_tokens`, and what Claude Code asks besides:
`GET` and `HEAD /api/hello`, `POST /api/event_logging/batch` (thrown away). Errors are raised to the application, which
writes them in the vendor's shape; in the middle of a stream they are `event: error`. A ping is sent when nothing has
come for a while, so no client gives up on a long prompt.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..body import read_json
from ..errors import anthropic_error
from ..fields import ignored_header
from ..service import Job, Service, collect
from ..sse import EventStream, compact_json, frame, unless_disconnected
from ..work import Finished, Work
from .events import PING, MessageStream, message_of
from .request import Reply, reply_of, to_work
from .schema import COUNT, MESSAGES

__all__ = ["anthropic_routes"]

_log = logging.getLogger(__name__)


def anthropic_routes(service: Service, *, strict_fields: bool = False) -> list[Route]:
    """The routes, for the application to mount. `strict_fields` refuses unknown fields."""

    async def messages(request: Request) -> Response:
        body, unknown = MESSAGES.read(await read_json(request), strict=strict_fields)
        reply = reply_of(body, request.headers.get("anthropic-beta", ""))
        job = await service.open(_for_client(to_work(body), request))
        reply = reply if reply.model else replace(reply, model=job.model)
        message_id = f"msg_{secrets.token_hex(12)}"
        if reply.stream:
            frames = _frames(job, MessageStream(reply, message_id))
            await anext(frames)
            return EventStream(
                frames,
                on_error=lambda error: frame(anthropic_error(error, _request_id(request)), "error"),
                keep_alive=PING,
                headers=ignored_header(unknown),
            )
        message = await unless_disconnected(request.receive, _whole(job, reply, message_id))
        # A model can write half of a surrogate pair in a tool's input; UTF-8 can't hold it.
        data = compact_json(message).encode("utf-8", errors="replace")
        return Response(data, media_type="application/json", headers=ignored_header(unknown))

    async def count_tokens(request: Request) -> Response:
        body, unknown = COUNT.read(await read_json(request), strict=strict_fields)
        tokens = await service.count_tokens(_for_client(to_work(body), request))
        return JSONResponse({"input_tokens": tokens}, headers=ignored_header(unknown))

    return [
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
        Route("/api/hello", _hello, methods=["GET"]),  # Starlette answers HEAD by it as well
        Route("/api/event_logging/batch", _events, methods=["POST"]),
    ]


async def _frames(job: Job, stream: MessageStream) -> AsyncGenerator[bytes, None]:
    """The frames of a job. The first one is empty: whoever has taken it can close the job by closing the generator."""
    async with job:
        yield b""
        async for event in job:
            frames = stream.feed(event)
            if frames:
                yield frames
            if isinstance(event, Finished):
                _report(stream.blocks, event.usage.completion_tokens)


async def _whole(job: Job, reply: Reply, message_id: str) -> dict[str, Any]:
    async with job:
        message = message_of(await collect(job), reply, message_id)
    _report(len(message["content"]), message["usage"]["output_tokens"])
    return message


def _report(blocks: int, tokens: int) -> None:
    _log.info("Response: %d blocks, %d output tokens", blocks, tokens)


def _for_client(work: Work, request: Request) -> Work:
    """What the application knows of the client: its share of the cache, and the request's name in the log."""
    salt = getattr(request.state, "cache_salt", "")
    return replace(work, cache_salt=salt, request_id=_request_id(request) or "")


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


async def _hello(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _events(request: Request) -> Response:
    return JSONResponse({"status": "ok"})
