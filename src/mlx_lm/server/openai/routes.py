"""The routes of OpenAI's protocol, over any `Service`.

Contract: errors before a reply begins are raised to the application, which writes them in the vendor's shape; in the
middle of a stream they are `data: {"error": ...}` and the stream ends. A client that leaves cancels its jobs.
"""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ... import __version__
from ..body import read_json
from ..errors import openai_error
from ..fields import ignored_header
from ..service import Answer, Service
from ..sse import DONE, EventStream, compact_json, frame, unless_disconnected
from ..work import Progress, Work, WorkEvent
from .chat import CHAT, chat_works
from .chat_reply import ChatChunks, Envelope, chat_completion
from .completions import COMPLETIONS, completion_works
from .completions_reply import CompletionChunks, completion
from .embeddings import EMBEDDINGS, embedding_list
from .group import JobGroup
from .responses import RESPONSES, response_work
from .responses_reply import ResponseBuilder

__all__ = ["openai_routes"]

FINGERPRINT = f"mlx-lm-{__version__}"


class Chunks(Protocol):
    """Makes a stream's chunks."""

    def feed(self, index: int, event: WorkEvent) -> list[dict[str, Any]]: ...

    def end(self) -> list[dict[str, Any]]: ...


def openai_routes(service: Service, *, strict_fields: bool = False) -> list[Route]:
    """The routes, for the application to mount. `strict_fields` refuses unknown fields."""

    async def chat(request: Request) -> Response:
        body, unknown = CHAT.read(await read_json(request), strict=strict_fields)
        group = await JobGroup.open(service, for_client(chat_works(body), request))
        envelope = Envelope(f"chatcmpl-{secrets.token_hex(12)}", group.model, FINGERPRINT)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            chunks = ChatChunks(envelope, include_usage=usage, logprobs=body.logprobs)
            return await stream(group, chunks, unknown)
        answers = await whole(group, request)
        return reply(chat_completion(envelope, answers, logprobs=body.logprobs), unknown)

    async def completions(request: Request) -> Response:
        body, unknown = COMPLETIONS.read(await read_json(request), strict=strict_fields)
        works = completion_works(body)
        scored = works[0].top_logprobs is not None
        group = await JobGroup.open(service, for_client(works, request))
        envelope = Envelope(f"cmpl-{secrets.token_hex(12)}", group.model, FINGERPRINT)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            chunks = CompletionChunks(envelope, n=body.n, include_usage=usage, logprobs=scored)
            return await stream(group, chunks, unknown)
        answers = await whole(group, request)
        return reply(completion(envelope, answers, n=body.n, logprobs=scored), unknown)

    async def embeddings(request: Request) -> Response:
        body, unknown = EMBEDDINGS.read(await read_json(request), strict=strict_fields)
        found = await unless_disconnected(request.receive, service.embed(body.model, body.input, body.dimensions))
        return reply(embedding_list(found, body.encoding_format), unknown)

    async def responses(request: Request) -> Response:
        body, unknown = RESPONSES.read(await read_json(request), strict=strict_fields)
        group = await JobGroup.open(service, for_client([response_work(body)], request))
        builder = ResponseBuilder(body, group.model)
        if body.stream:
            return await response_stream(group, builder, unknown)
        async with group:
            await unless_disconnected(request.receive, feed_all(group, builder))
        return reply(builder.response, unknown)

    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/chat/completions", chat, methods=["POST"]),  # mlx-lm's other path
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/responses", responses, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]


def for_client(works: Sequence[Work], request: Request) -> list[Work]:
    """What the application knows of the client: its share of the cache, and the request's name in the log."""
    salt = getattr(request.state, "cache_salt", "")
    request_id = getattr(request.state, "request_id", "")
    return [replace(work, cache_salt=salt, request_id=request_id) for work in works]


def reply(body: dict[str, Any], unknown: tuple[str, ...]) -> Response:
    """A JSON reply. A model can write half of a surrogate pair, which UTF-8 cannot hold."""
    data = compact_json(body).encode("utf-8", errors="replace")
    return Response(data, media_type="application/json", headers=ignored_header(unknown))


async def whole(group: JobGroup, request: Request) -> list[Answer]:
    """All answers of a group, unless the client leaves."""
    async with group:
        return await unless_disconnected(request.receive, group.answers())


async def stream(group: JobGroup, chunks: Chunks, unknown: tuple[str, ...]) -> Response:
    """A group's events as a stream of chunks."""

    def feed(index: int, event: WorkEvent) -> bytes:
        return b"".join(map(frame, chunks.feed(index, event)))

    async def frames() -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(event_frames(group, feed)) as pieces:
            async for piece in pieces:
                yield piece
        for chunk in chunks.end():
            yield frame(chunk)
        yield DONE

    running = frames()
    await anext(running)
    return EventStream(running, on_error=lambda error: frame(openai_error(error)), headers=ignored_header(unknown))


async def feed_all(group: JobGroup, builder: ResponseBuilder) -> None:
    """Gives all events of a group's only job to the builder."""
    async with contextlib.aclosing(group.events()) as events:
        async for _, event in events:
            builder.feed(event)


async def response_stream(group: JobGroup, builder: ResponseBuilder, unknown: tuple[str, ...]) -> Response:
    """A response's typed events; there is no [DONE]."""

    def typed(events: Sequence[dict[str, Any]]) -> bytes:
        return b"".join(frame(event, event["type"]) for event in events)

    async def frames() -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(event_frames(group, lambda _, event: typed(builder.feed(event)))) as pieces:
            yield await anext(pieces)
            yield typed(builder.start())
            async for piece in pieces:
                yield piece

    running = frames()
    await anext(running)
    return EventStream(running, on_error=lambda error: typed(builder.fail(error)), headers=ignored_header(unknown))


async def event_frames(group: JobGroup, feed: Callable[[int, WorkEvent], bytes]) -> AsyncGenerator[bytes, None]:
    """The frames that `feed` makes of a group's events.

    The first piece is empty: a generator that was never started would not close its jobs when it is closed.
    """
    async with group, contextlib.aclosing(group.events()) as events:
        yield b""
        async for index, event in events:
            if isinstance(event, Progress):  # mlx-lm's comment, by which its clients show progress
                yield f": keepalive {event.done}/{event.total}\n\n".encode()
            elif piece := feed(index, event):
                yield piece
