"""mlx_lm's service, with an eye on MLX's memory.

The log has a line at level DEBUG when an answer begins and each second while any is written; it warns when memory
passes 20, 22 or 24 GB.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import mlx.core as mx
from mlx_lm.server.core import ModelService
from mlx_lm.server.job import EngineJob
from mlx_lm.server.options import ServerSettings
from mlx_lm.server.run import HTTPServer
from mlx_lm.server.work import Work

__all__ = ["THRESHOLDS", "MemoryWatch", "WatchedService", "serve"]

_log = logging.getLogger("semantic.batch_engine")
THRESHOLDS = ((24.0, logging.CRITICAL, "critical"), (22.0, logging.ERROR, "very high"), (20.0, logging.WARNING, "high"))


class MemoryWatch:
    """Says how much memory MLX has, and says it louder the first time that it passes a threshold."""

    def __init__(self) -> None:
        self._warned = 0.0

    def step(self) -> None:
        """Looks once."""
        used = mx.get_active_memory() / 1e9
        _log.debug("MLX memory: %.2f GB", used)
        for limit, level, word in THRESHOLDS:
            if used >= limit:
                if limit > self._warned:
                    _log.log(level, "MLX memory is %s: %.2f GB", word, used)
                self._warned = max(self._warned, limit)
                break
        else:
            self._warned = 0.0


class WatchedService(ModelService):
    """mlx_lm's service; it looks at the memory whenever an answer begins, and each second while any is written."""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self.watch = MemoryWatch()

    async def open(self, work: Work) -> EngineJob:
        """See `Service.open`."""
        job = await super().open(work)
        self.watch.step()
        return job


async def serve(settings: ServerSettings) -> None:
    """Runs until a signal ends it. Raises ConfigError, and what loading the model raises."""
    service = WatchedService(settings)
    server = HTTPServer(settings, service)
    watch = asyncio.create_task(_watch(service))
    try:
        await server.serve()
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await service.close()
    if server.failure is not None:
        raise server.failure


async def _watch(service: WatchedService) -> None:
    while True:
        if service.jobs:
            service.watch.step()
        await asyncio.sleep(1.0)
