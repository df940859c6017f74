"""/health, /ready, /metrics and /status.json: for load balancers, Prometheus, and the live view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .metrics import Metrics
from .service import Service

__all__ = ["health_routes"]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def health_routes(service: Service, metrics: Metrics) -> list[Route]:
    """The routes, for the application to mount."""

    async def health(request: Request) -> Response:
        """200 while the process can compute at all; 503 asks for a restart."""
        alive = service.status().get("alive", True)
        return JSONResponse({"status": "ok" if alive else "unavailable"}, 200 if alive else 503)

    async def ready(request: Request) -> Response:
        """200 when requests are answered at once; 503 while a model loads or the server ends."""
        status = service.status()
        if status.get("ready"):
            return JSONResponse({"status": "ready"})
        why = "draining" if status.get("draining") else "loading"
        return JSONResponse({"status": why}, 503, {"Retry-After": "1"})

    async def prometheus(request: Request) -> Response:
        return PlainTextResponse(metrics.render(_gauges(service.status())), media_type=_PROMETHEUS)

    async def status(request: Request) -> Response:
        return JSONResponse(dict(service.status()), headers={"Cache-Control": "no-store"})

    return [
        Route("/health", health, methods=["GET"]),
        Route("/ready", ready, methods=["GET"]),
        Route("/metrics", prometheus, methods=["GET"]),
        Route("/status.json", status, methods=["GET"]),
    ]


def _gauges(status: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """The numbers of the moment, by Prometheus name."""
    engines = status.get("engines", [])

    def total(name: str) -> float:
        return sum(engine.get(name) or 0 for engine in engines)

    budget, reserved = total("budget_bytes"), total("reserved_bytes")
    gauges = {
        "num_requests_running": ("Requests whose answer is being written.", status.get("running", 0)),
        "num_requests_waiting": ("Requests that wait for their first token.", status.get("waiting", 0)),
        "kv_cache_usage_perc": ("Reserved part of the memory for sequences, 0 to 1.", reserved / max(budget, 1)),
        "kv_cache_bytes": ("Bytes that running sequences hold.", total("state_bytes")),
        "prefix_cache_bytes": ("Bytes of the prefix cache in memory.", total("cached_bytes")),
        "prefix_cache_blocks": ("Blocks of the prefix cache in memory.", total("cached_blocks")),
        "spec_decode_num_draft_tokens": ("Tokens that were guessed ahead.", total("drafted_tokens")),
        "spec_decode_num_accepted_tokens": ("Guessed tokens that were right.", total("accepted_tokens")),
        "models_loaded": ("Models in memory, adapters included.", len(engines)),
    }
    memory = status.get("memory") or {}
    for name in memory:
        gauges[f"memory_{name}"] = (f"MLX memory, {name.replace('_', ' ')}.", memory[name])
    disk = status.get("disk") or {}
    for name in ("bytes", "entries", "errors", "corrupt"):
        if name in disk:
            gauges[f"disk_cache_{name}"] = (f"Prefix cache on disk, {name}.", disk[name])
    return gauges
