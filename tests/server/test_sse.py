"""Event streams: frames on the wire, silence filled, failures told, and the source closed when the client leaves."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from mlx_lm.server.sse import EventStream, frame, unless_disconnected


class Client:
    """One end of an ASGI connection that stays until `leave`."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.messages: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages)


class Source:
    def __init__(self, pieces: list[bytes], *, delay: float = 0.0, error: Exception | None = None) -> None:
        self.pieces, self.delay, self.error, self.closed = pieces, delay, error, False

    async def run(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece in self.pieces:
                await asyncio.sleep(self.delay)
                yield piece
            if self.error:
                raise self.error
        finally:
            self.closed = True


def stream(source: Source, **options: Any) -> EventStream:
    return EventStream(source.run(), on_error=lambda e: frame({"error": str(e)}), **options)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_frame_is_one_line_of_json() -> None:
    assert frame({"a": "x\ny é"}) == 'data: {"a":"x\\ny é"}\n\n'.encode()
    assert frame({}, "ping") == b"event: ping\ndata: {}\n\n"
    assert frame({"a": "\ud800"}) == b'data: {"a":"?"}\n\n'


def test_whole_stream() -> None:
    async def main() -> None:
        client, source = Client(), Source([b"1", b"2"])
        await stream(source, headers={"x-id": "7"})({}, client.receive, client.send)  # type: ignore[arg-type]
        headers = dict(client.messages[0]["headers"])
        assert headers[b"content-type"].startswith(b"text/event-stream") and headers[b"x-id"] == b"7"
        assert b"content-length" not in headers
        assert client.body == b"12" and client.messages[-1]["more_body"] is False and source.closed

    run(main())


def test_error_ends_the_stream_with_a_frame() -> None:
    async def main() -> None:
        client, source = Client(), Source([b"1"], error=RuntimeError("broke"))
        await stream(source)({}, client.receive, client.send)  # type: ignore[arg-type]
        assert client.body == b'1data: {"error":"broke"}\n\n' and source.closed

    run(main())


def test_silence_is_filled() -> None:
    async def main() -> None:
        client, source = Client(), Source([b"1"], delay=0.08)
        await stream(source, keep_alive=b":\n\n", keep_alive_seconds=0.02)({}, client.receive, client.send)  # type: ignore[arg-type]
        assert client.body.startswith(b":\n\n") and client.body.endswith(b"1")

    run(main())


def test_leaving_closes_the_source() -> None:
    async def main() -> None:
        client, source = Client(), Source([b"1", b"2"], delay=30)
        task = asyncio.create_task(stream(source)({}, client.receive, client.send))  # type: ignore[arg-type]
        await asyncio.sleep(0.02)
        client.left.set()
        await asyncio.wait_for(task, 1)
        assert source.closed and client.body == b""

    run(main())


def test_reader_that_stands_still_is_dropped() -> None:
    async def main() -> None:
        source = Source([b"1", b"2"])
        client = Client()

        async def send(message: Any) -> None:
            if message.get("body"):
                await asyncio.sleep(30)

        await asyncio.wait_for(stream(source, write_seconds=0.02)({}, client.receive, send), 1)  # type: ignore[arg-type]
        assert source.closed

    run(main())


def test_unless_disconnected() -> None:
    async def main() -> None:
        client = Client()

        async def answer() -> int:
            await asyncio.sleep(0)
            return 7

        assert await unless_disconnected(client.receive, answer()) == 7  # type: ignore[arg-type]
        cancelled = asyncio.Event()

        async def slow() -> None:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        asyncio.get_running_loop().call_later(0.02, client.left.set)
        with pytest.raises(ClientDisconnect):
            await unless_disconnected(client.receive, slow())  # type: ignore[arg-type]
        assert cancelled.is_set()

    run(main())
