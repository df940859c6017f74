"""The application: all routes behind the guards, every error in its vendor's shape, every reply with its request id.

Contract: `create_app(settings, service)` works over any `Service`. Nothing that a handler raises leaves it.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import MLXLMError
from .anthropic.routes import anthropic_routes
from .docs import doc_routes
from .errors import HTTPError, error_response
from .health import health_routes
from .limits import BodyLimit
from .metrics import Metrics
from .models import model_routes
from .openai.routes import openai_routes
from .options import ServerSettings
from .security import Guard
from .service import Service
from .web import web_routes

__all__ = ["create_app"]

_log = logging.getLogger(__name__)
_CLIENT_LEFT = 499  # nginx's number for it; nobody reads the reply
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def create_app(settings: ServerSettings, service: Service, metrics: Metrics | None = None) -> ASGIApp:
    """The application. `metrics` are the service's, if it has any."""
    metrics = metrics or Metrics()
    routes: list[BaseRoute] = [
        *openai_routes(service, strict_fields=settings.strict_fields),
        *anthropic_routes(service, strict_fields=settings.strict_fields),
        *model_routes(service),
        *health_routes(service, metrics),
        *doc_routes(),
        *(web_routes() if settings.web_page else ()),
    ]
    handlers: Any = {
        HTTPException: _http_error,
        ClientDisconnect: _left,
        MLXLMError: error_reply,
        Exception: error_reply,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    guarded = Guard(BodyLimit(app, settings), settings)
    return _Outermost(guarded, routes, metrics)


async def error_reply(request: Request, error: Exception) -> Response:
    """What a handler raised, as a reply."""
    return error_response(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    words = {404: f"There is no {request.url.path[:200]} here.", 405: f"{request.method} is not allowed here."}
    status = error.status_code
    response = error_response(request, HTTPError(status, words.get(status, str(error.detail)[:200])))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)


class _Outermost:
    """Request ids, logs and metrics; the last resort for errors of the layers below."""

    def __init__(self, app: ASGIApp, routes: list[BaseRoute], metrics: Metrics) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        request.state.request_id = request_id
        started, status = time.monotonic(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = headers["Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if status in (408, 413):
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception as error:
            if not status:
                await error_response(request, error)(scope, receive, send_marked)
            elif not isinstance(error, ClientDisconnect | MLXLMError):
                _log.exception("Request %s failed after its reply had begun", request_id)
        finally:
            self._metrics.response(self._route(scope), status)
            seconds = time.monotonic() - started
            _log.info("%s %s %s %.3f s %s", request.method, _printable(request), status, seconds, request_id)

    def _route(self, scope: Scope) -> str:
        """The route's own path: what clients write has no place in metrics."""
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE:
                return route.path
        return "other"


def _printable(request: Request) -> str:
    return "".join(c if c.isprintable() else "?" for c in request.url.path[:200])


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
