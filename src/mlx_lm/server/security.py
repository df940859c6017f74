"""Who may talk to the server: Host names, web pages of other origins, keys. An ASGI layer over the application.

Contract: loopback without keys is open to this machine's own programs only; a web page cannot reach it, neither by a
name that it made point here (DNS rebinding: Host is checked) nor across origins (Origin is checked, CORS is off). Keys
are compared in constant time. Beyond loopback a key is required, or the server does not start.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ConfigError
from .errors import HTTPError, error_response
from .options import ServerSettings

__all__ = ["Guard", "Keys", "check_bind", "is_loopback"]

_log = logging.getLogger(__name__)
# Replies without secrets, which need no key: load balancers and the page that asks for the key.
_OPEN_PATHS = frozenset({"/", "/health", "/ready", "/favicon.ico", "/docs", "/openapi.json", "/api/hello"})
_OPEN_PREFIX = "/static/"
_PREFLIGHT_SECONDS = "600"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_bind(settings: ServerSettings) -> None:
    """Raises ConfigError for an address that others can reach, without a key that keeps them out."""
    if not is_loopback(settings.host) and not settings.api_keys:
        raise ConfigError(
            f"host {settings.host!r} can be reached from other machines, so an API key is needed: set "
            "MLX_LM_API_KEY (or --api-key), or listen on 127.0.0.1."
        )
    for key in settings.api_keys:
        if not key.isascii() or not key.isprintable():
            raise ConfigError("api_keys must be printable ASCII: clients send them in a header.")


class Keys:
    """The keys of clients. Prefix caches are kept apart by key when there are several."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def salt(self, headers: Headers) -> str | None:
        """The cache salt of the request's key; None when it has no key that is known."""
        if not self._digests:
            return ""
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = [token.strip()] if kind.lower() == "bearer" else []
        given += [headers[name] for name in ("x-api-key", "anthropic-api-key") if name in headers]
        known: bytes | None = None
        for text in given:
            digest = hashlib.sha256(text.encode(errors="replace")).digest()
            for own in self._digests:  # all of them, so that time tells nothing
                if hmac.compare_digest(digest, own):
                    known = own
        if known is None:
            return None
        return hashlib.sha256(b"mlx_lm cache salt" + known).hexdigest()[:32] if len(self._digests) > 1 else ""


class Guard:
    """Lets a request through, or answers 400, 401, 403 or 421."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._keys = Keys(settings.api_keys)
        self._hosts = {host.lower() for host in settings.allowed_hosts}
        self._origins = {origin.rstrip("/").lower() for origin in settings.allowed_origins}
        self._own = settings.host.strip("[]").lower()
        # Beyond loopback the key keeps strangers out, whatever name they come by.
        self._any_host = "*" in self._hosts or (bool(self._keys) and not is_loopback(self._own) and not self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            origin = self._check(request)
        except HTTPError as error:
            await error_response(request, error)(scope, receive, send)
            return
        if origin is None:
            await self._app(scope, receive, send)
            return
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            await self._preflight(request, origin)(scope, receive, send)
            return

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._share(MutableHeaders(scope=message), origin)
            await send(message)

        await self._app(scope, receive, send_shared)

    def _check(self, request: Request) -> str | None:
        """The origin that a reply is to be shared with, or None. Raises HTTPError."""
        headers = request.headers
        self._check_host(headers)
        origin = headers.get("origin")
        shared = None
        if origin is not None and not _same_origin(origin, headers.get("host", "")):
            if "*" not in self._origins and origin.rstrip("/").lower() not in self._origins:
                raise HTTPError(403, "Web pages of this origin may not use the server (see --allowed-origins).")
            shared = origin
            if request.method == "OPTIONS":
                return shared  # browsers ask without the key
        salt = self._keys.salt(headers)
        if salt is None and not _is_open(request.url.path):
            raise HTTPError(
                401, "A valid API key is needed: Authorization: Bearer KEY, or x-api-key.", code="invalid_api_key"
            )
        request.state.cache_salt = salt or ""
        return shared

    def _check_host(self, headers: Headers) -> None:
        names = headers.getlist("host")
        if len(names) != 1:
            raise HTTPError(400, "A request must have one Host header.")
        name = _host_name(names[0])
        if self._any_host or is_loopback(name) or name in self._hosts or name == self._own:
            return
        raise HTTPError(421, "This server does not answer to that Host name (see --allowed-hosts).")

    def _preflight(self, request: Request, origin: str) -> Response:
        asked = request.headers.get("access-control-request-headers", "")
        response = Response(status_code=204)
        self._share(response.headers, origin)
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = asked[:1000] or "content-type, authorization, x-api-key"
        response.headers["Access-Control-Max-Age"] = _PREFLIGHT_SECONDS
        return response

    def _share(self, headers: MutableHeaders, origin: str) -> None:
        headers["Access-Control-Allow-Origin"] = "*" if "*" in self._origins else origin
        headers.add_vary_header("Origin")


def _host_name(host: str) -> str:
    """The name without the port."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


def _same_origin(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.strip().lower()


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX)
