"""An application of OpenAI's routes over a fake service, and ways to call it without a socket."""

import asyncio
import json
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request

from mlx_lm.server.docs import doc_routes
from mlx_lm.server.errors import error_response
from mlx_lm.server.models import model_routes
from mlx_lm.server.openai.routes import openai_routes

__all__ = ["application", "get", "leave_after", "post", "sse"]


def application(service: Any, **options: Any) -> Starlette:
    async def failed(request: Request, error: Exception) -> Any:
        return error_response(request, error)

    routes = [*openai_routes(service, **options), *model_routes(service), *doc_routes()]
    return Starlette(routes=routes, exception_handlers={Exception: failed})


def _client(service: Any, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(service, **options), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def post(service: Any, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        async with _client(service, **options) as client:
            return await client.post(path, json=body)

    return asyncio.run(main())


def get(service: Any, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async def main() -> httpx.Response:
        async with _client(service) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(main())


def sse(reply: httpx.Response, *, done: bool = True) -> list[dict[str, Any]]:
    """The events' data; a stream that is whole ends with [DONE]."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    if done:
        assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def leave_after(seconds: float, service: Any, path: str, body: dict[str, Any]) -> None:
    """Sends a request and hangs up after some seconds; returns when the application is done with it."""
    left = asyncio.Event()
    messages = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
    }
    app = application(service)
    asyncio.get_running_loop().call_later(seconds, left.set)
    try:
        await asyncio.wait_for(app(scope, receive, send), 5)  # type: ignore[arg-type]
    except TimeoutError:
        raise
    except Exception as error:
        assert type(error).__name__ == "ClientDisconnect", error
