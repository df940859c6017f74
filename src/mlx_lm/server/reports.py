"""What a service can say of itself: the models it has, and where it stands.

Numbers of engines are read without stopping them: each is whole, together they may be a step apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..errors import ModelNotFoundError
from .catalog import Catalog
from .loading import LoadedEmbedder
from .residency import Residency
from .service import ModelInfo

if TYPE_CHECKING:
    from .core import ModelService

__all__ = ["model_info", "model_infos", "service_status"]


def model_infos(catalog: Catalog, residency: Residency, created: int) -> tuple[ModelInfo, ...]:
    """The models and adapters that clients may name, the default one first."""
    loaded = residency.loaded
    infos = []
    for id in catalog.sources:
        one = loaded.get(id)
        infos.append(
            ModelInfo(
                id,
                created,
                None if one is None else one.context_length,
                one is not None,
                id in catalog.pinned,
                catalog.aliases_of(id),
                () if isinstance(one, LoadedEmbedder) else tuple(catalog.adapters),
                kind="embed" if isinstance(one, LoadedEmbedder) else "generate",
            )
        )
    known = set(catalog.sources)
    infos += [ModelInfo(id, created, one.context_length, True) for id, one in loaded.items() if id not in known]
    base = next((info for info in infos if catalog.default is not None and info.id == catalog.default.id), None)
    if base is not None:
        for name in catalog.adapters:
            aliases = catalog.aliases_of(name)
            infos.append(ModelInfo(name, created, base.context_length, base.loaded, aliases=aliases))
    return tuple(infos)


def model_info(catalog: Catalog, infos: Sequence[ModelInfo], name: str) -> ModelInfo | None:
    """The one of `infos` that a request for `name` gets, by the catalog's own rules."""
    try:
        wanted = catalog.find(name).id
    except ModelNotFoundError:
        return None
    return next((info for info in infos if info.id == wanted), None)


def service_status(service: ModelService) -> Mapping[str, Any]:
    """Queue, batch, caches and memory; all values are JSON."""
    engines = [_engine(loaded) for loaded in service.residency.engines]
    jobs = list(service.jobs)
    default = service.catalog.default
    ready = service.thread.alive and not service.draining
    if default is not None:
        ready = ready and (default.id in service.residency.loaded or service.settings.model_ttl is not None)
    return {
        "ready": ready,
        "alive": service.thread.alive,
        "draining": service.draining,
        "running": sum(job.started for job in jobs),
        "waiting": sum(not job.started for job in jobs),
        "max_batch_size": service.settings.max_batch_size,
        "jobs": [job.details for job in jobs],
        "engines": engines,
        "models": [asdict(info) for info in service.models()],
        "disk": None if service.disk is None else asdict(service.disk.stats()),
        "memory": {
            "active_bytes": mx.get_active_memory(),
            "peak_bytes": mx.get_peak_memory(),
            "pool_bytes": mx.get_cache_memory(),
        },
        "totals": {
            "prompt_tokens": service.metrics.prompt_tokens,
            "cached_tokens": service.metrics.cached_tokens,
            "completion_tokens": service.metrics.completion_tokens,
            "finished": dict(service.metrics.reasons),
        },
    }


def _engine(loaded: Any) -> dict[str, Any]:
    stats: dict[str, Any] = {}
    for _ in range(5):
        try:
            stats = asdict(loaded.engine.stats())
            break
        except RuntimeError:  # a request came or went while its entry was being read
            continue
    return {"model": loaded.id, "weight_bytes": loaded.weight_bytes, "kv_bits": loaded.kv.bits, **stats}
