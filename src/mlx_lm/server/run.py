"""The server as a process: listens, loads, answers, drains and ends.

Contract: it listens before it loads, so that /health and /ready tell where it stands. SIGTERM and SIGINT stop it from
listening, let running answers end within `drain_seconds` and give exit status 0; a second signal ends it at once. A
default model that cannot be loaded ends it with that error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

import uvicorn

from .. import hub
from ..errors import ConfigError
from ..models.load import check_config
from .app import create_app
from .core import ModelService
from .limits import limited_protocol
from .options import ServerSettings
from .security import check_bind

__all__ = ["HTTPServer", "serve", "with_default_model"]

_log = logging.getLogger(__name__)


class HTTPServer(uvicorn.Server):
    """uvicorn with a service: signals drain it."""

    def __init__(self, settings: ServerSettings, service: ModelService) -> None:
        check_bind(settings)
        config = uvicorn.Config(
            create_app(settings, service, service.metrics),
            host=settings.host,
            port=settings.port,
            http=limited_protocol(settings.max_connections, settings.read_timeout),
            ws="none",
            lifespan="off",
            h11_max_incomplete_event_size=settings.max_header_bytes,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            timeout_keep_alive=75,
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
        )
        super().__init__(config)
        self._service = service
        self.failure: BaseException | None = None

    @property
    def port(self) -> int:
        """The port that was taken; only once it listens."""
        return self.servers[0].sockets[0].getsockname()[1]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends at once."""
        self._service.draining = True
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: the exit status is 0."""
        try:
            old = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever runs it ends it by `should_exit`
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list | None = None) -> None:
        """Listens, then loads."""
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn's way of saying that the address is taken
            raise ConfigError(f"{self.config.host}:{self.config.port} cannot be listened on; see above.") from error
        if self.started:
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            _log.info("Listening on http://%s:%s", host, self.port)
            self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self._service.start()
        except Exception as error:
            self.failure = error
            self.should_exit = True
        else:
            _log.info("Ready")


async def serve(settings: ServerSettings) -> None:
    """Runs until a signal ends it. Raises ConfigError, and what loading the models raises."""
    check_bind(settings)
    service = ModelService(settings)
    server = HTTPServer(settings, service)
    try:
        await server.serve()
    finally:
        await service.close()
    if server.failure is not None:
        raise server.failure


def with_default_model(settings: ServerSettings) -> ServerSettings:
    """The settings with the commands' default model, where they name none and clients may not fetch their own."""
    if settings.model_id is not None or settings.models or settings.allow_download:
        return settings
    from dataclasses import replace

    return replace(settings, model_id=hub.default_model(check_config=check_config).name)
