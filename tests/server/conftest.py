"""Real servers over HTTP: uvicorn in a thread on a free port, with tiny models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from model_folders import model_maker

from mlx_lm.server.core import ModelService
from mlx_lm.server.options import ServerSettings
from mlx_lm.server.run import HTTPServer


class RunningServer:
    """A server in a thread of its own; `client()` talks with it, `call` runs a coroutine on its loop."""

    def __init__(self, settings: ServerSettings, **service: Any) -> None:
        self.settings = settings
        self._started = threading.Event()
        self._service_options = service
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(60), "the server did not start"
        for _ in range(3000):
            if self.error is not None or self.service.status()["ready"]:
                break
            threading.Event().wait(0.01)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.service = ModelService(self.settings, check=True, **self._service_options)
        self.server = HTTPServer(self.settings, self.service)
        serving = asyncio.create_task(self.server.serve())
        while not self.server.started and not serving.done():
            await asyncio.sleep(0.005)
        if self.server.started:
            self.port = self.server.port
            self._started.set()
        try:
            await serving
        finally:
            await self.service.close()
        if self.server.failure is not None:
            self.error = self.server.failure

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def idle(self) -> dict[str, Any]:
        """The engine's numbers once nothing runs any more."""
        for _ in range(500):
            status = self.service.status()
            engines = status["engines"]
            if not status["jobs"] and all(e["running"] + e["queued"] + e["prefilling"] == 0 for e in engines):
                return dict(status)
            threading.Event().wait(0.01)
        raise AssertionError(f"the server did not become idle: {self.service.status()}")

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`tiny_model(kind, template=True, seed=7)` -> the folder of a tiny model, made once."""
    return model_maker(tmp_path_factory.mktemp("served"))


@contextmanager
def running(settings: ServerSettings, **service: Any) -> Iterator[RunningServer]:
    server = RunningServer(settings, **service)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """`with serve(model_id=..., port=0, ...) as server:`"""

    def start(*, fault: Any = None, **settings: Any) -> Any:
        return running(ServerSettings(**{"port": 0, **settings}), fault=fault)

    return start


@pytest.fixture(scope="session")
def server(serve: Any, tiny_model: Any) -> Iterator[RunningServer]:
    """A server with a tiny llama, for tests that leave it as it was."""
    with serve(model_id=tiny_model()) as running_server:
        yield running_server
