"""Which models are in memory: loaded on demand, unloaded when unused or when another needs the room.

Contract: `acquire` gives a lease on a loaded model; a model with leases is never unloaded. At most `max_loaded_models`
bases are loaded; beyond that the one longest unused goes, and if all are in use the caller waits for one. Adapters have
engines of their own over their base's arrays and go with it. All state here is touched on the event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import mlx.core as mx

from ..engine import PrefixCache
from ..engine.thread import EngineThread
from ..errors import OverloadedError, UnsupportedError
from . import loading
from .catalog import Catalog, Choice, Source
from .loading import Loaded, LoadedEmbedder
from .options import ServerSettings

__all__ = ["EmbedderLease", "Lease", "Residency"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
MAX_ADAPTERS = 8  # engines of adapters kept for one base


@dataclass
class _Resident:
    source: Source
    loading: asyncio.Task[Loaded | LoadedEmbedder] | None = None
    loaded: Loaded | LoadedEmbedder | None = None
    cache: PrefixCache | None = None
    adapters: dict[str, Loaded] = field(default_factory=dict)  # least recently used first
    users: int = 0
    adapter_users: dict[str, int] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class _Lease(Generic[_T]):
    """A loaded model that stays until `release`."""

    loaded: _T
    _release: Callable[[], None]
    _released: bool = False

    def release(self) -> None:
        """Gives the model back; harmless a second time."""
        if not self._released:
            self._released = True
            self._release()


Lease = _Lease[Loaded]
EmbedderLease = _Lease[LoadedEmbedder]


class Residency:
    """The loaded models.

    Args:
        thread: where all MLX work is done.
        disk: the disk tier of all prefix caches, or None.
        wait_seconds: how long a request waits for a model in use to be given up for the one that it needs.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServerSettings,
        thread: EngineThread,
        disk: Any = None,
        *,
        wait_seconds: float = 60.0,
    ) -> None:
        self.catalog = catalog
        self._settings = settings
        self._thread = thread
        self._disk = disk
        self._wait_seconds = wait_seconds
        self._residents: dict[str, _Resident] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def loaded(self) -> dict[str, Loaded | LoadedEmbedder]:
        """Loaded bases by id."""
        return {id: r.loaded for id, r in self._residents.items() if r.loaded is not None}

    @property
    def engines(self) -> list[Loaded]:
        """Everything that writes text: bases, and adapters over them."""
        residents = [r for r in self._residents.values() if r.loaded is not None]
        return [one for r in residents for one in (r.loaded, *r.adapters.values()) if isinstance(one, Loaded)]

    async def acquire(self, choice: Choice) -> Lease:
        """A lease on a model that writes text, loaded if need be.

        Raises OverloadedError when all loaded models stay in use for too long, UnsupportedError for an embedding model,
        and what loading raises.
        """
        resident = await self._resident(choice.source)
        resident.users += 1
        name = choice.adapter_name
        try:
            base = await self._base(resident)
            if isinstance(base, LoadedEmbedder):
                raise UnsupportedError(
                    f"{base.id} is an embedding model and writes no text: send it to /v1/embeddings."
                )
            loaded = base if choice.adapter is None else await self._adapter(resident, base, choice)
        except BaseException:
            self._give_back(resident, None)
            raise
        if name is not None:
            resident.adapter_users[name] = resident.adapter_users.get(name, 0) + 1
        return Lease(loaded, lambda: self._give_back(resident, name))

    async def acquire_embedder(self, choice: Choice) -> EmbedderLease:
        """As `acquire`, for an embedding model."""
        resident = await self._resident(choice.source)
        resident.users += 1
        try:
            base = await self._base(resident)
            if not isinstance(base, LoadedEmbedder):
                raise UnsupportedError(
                    f"{base.id} writes text; embeddings need an embedding model, such as one of BERT's kind."
                )
            if choice.adapter is not None:
                raise UnsupportedError("Adapters are for models that write text.")
        except BaseException:
            self._give_back(resident, None)
            raise
        return EmbedderLease(base, lambda: self._give_back(resident, None))

    def _give_back(self, resident: _Resident, adapter: str | None) -> None:
        resident.users -= 1
        resident.used = time.monotonic()
        if adapter is not None:
            resident.adapter_users[adapter] -= 1
        if resident.users == 0:
            self._spawn(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _resident(self, source: Source) -> _Resident:
        """The model's place, made free if need be."""
        deadline = time.monotonic() + self._wait_seconds
        while source.id not in self._residents:
            if len(self._residents) < self._settings.max_loaded_models:
                self._residents[source.id] = _Resident(source)
                break
            idle = [r for r in self._residents.values() if r.users == 0 and r.source.id not in self.catalog.pinned]
            if idle:
                await self._unload(min(idle, key=lambda r: r.used))
                continue
            pinned = sum(r.source.id in self.catalog.pinned for r in self._residents.values())
            left = deadline - time.monotonic()
            if left <= 0 or pinned == len(self._residents):
                raise OverloadedError(sum(r.users for r in self._residents.values()), 10.0)
            async with self._changed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)
        return self._residents[source.id]

    async def _base(self, resident: _Resident) -> Loaded | LoadedEmbedder:
        if resident.loaded is not None:
            return resident.loaded
        if resident.loading is None:
            resident.loading = asyncio.create_task(self._load(resident))
            resident.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(resident.loading)

    async def _load(self, resident: _Resident) -> Loaded | LoadedEmbedder:
        source, settings = resident.source, self._settings
        started = time.monotonic()
        try:
            files = await asyncio.to_thread(loading.find_files, source, settings)
            if await asyncio.to_thread(loading.is_embedder, files):
                resident.loaded = await self._on_thread(lambda: loading.load_embedder(source.id, files))
            else:
                resident.loaded = await self._load_text(resident, files)
        except BaseException:
            self._residents.pop(source.id, None)
            self._spawn(self._notify())
            raise
        finally:
            resident.loading = None
        resident.used = time.monotonic()
        await self._share_cache()
        _log.info("Model %s loaded in %.1f s", source.id, time.monotonic() - started)
        return resident.loaded

    async def _load_text(self, resident: _Resident, files: Any) -> Loaded:
        source, settings = resident.source, self._settings
        is_default = source is self.catalog.default
        tokenizer = await asyncio.to_thread(loading.load_tokenizer, files, settings, is_default=is_default)
        key = await asyncio.to_thread(loading.fingerprint, files, source.adapter)
        resident.cache = self._new_cache()

        def load() -> Loaded:
            loaded = loading.load_engine(
                source.id, files, tokenizer, settings,
                key=key, cache=resident.cache, adapter=source.adapter, is_default=is_default,
            )  # fmt: skip
            self._thread.attach(loaded.engine)
            return loaded

        return await self._on_thread(load)

    async def _adapter(self, resident: _Resident, base: Loaded, choice: Choice) -> Loaded:
        name, folder = choice.adapter_name, choice.adapter
        assert name is not None and folder is not None
        async with resident.lock:
            found = resident.adapters.pop(name, None)
            if found is None:
                key = await asyncio.to_thread(loading.fingerprint, base.files, folder)

                def load() -> Loaded:
                    loaded = loading.adapter_engine(base, name, folder, self._settings, key=key, cache=resident.cache)
                    self._thread.attach(loaded.engine)
                    return loaded

                found = await self._on_thread(load)
            resident.adapters[name] = found
            idle = [n for n in resident.adapters if n != name and not resident.adapter_users.get(n)]
            if len(resident.adapters) > MAX_ADAPTERS and idle:
                engine = resident.adapters.pop(idle[0]).engine
                await self._on_thread(lambda: self._thread.detach(engine))
        return found

    async def unload(self, id: str) -> bool:
        """Unloads a model that nobody uses; False when it is not loaded or in use."""
        resident = self._residents.get(id)
        if resident is None or resident.users or resident.loaded is None:
            return False
        await self._unload(resident)
        return True

    async def _unload(self, resident: _Resident) -> None:
        self._residents.pop(resident.source.id, None)
        engines = [one.engine for one in (resident.loaded, *resident.adapters.values()) if isinstance(one, Loaded)]
        resident.loaded = None
        resident.adapters.clear()
        resident.cache = None

        def drop() -> None:
            while engines:
                self._thread.detach(engines.pop())
            gc.collect()
            mx.clear_cache()

        await self._on_thread(drop)
        await self._share_cache()
        _log.info("Model %s unloaded", resident.source.id)

    async def unload_unused(self) -> None:
        """Unloads what was not used for `model_ttl` seconds; call it now and then."""
        ttl = self._settings.model_ttl
        if ttl is None:
            return
        now = time.monotonic()
        for resident in list(self._residents.values()):
            pinned = resident.source.id in self.catalog.pinned
            if not pinned and resident.users == 0 and resident.loaded is not None and now - resident.used >= ttl:
                await self._unload(resident)

    def _new_cache(self) -> PrefixCache | None:
        total = self._settings.prompt_cache_bytes
        if total == 0 and self._disk is None:
            return None
        return PrefixCache(total, self._disk, disk_min_tokens=self._settings.disk_prompt_cache_min_tokens)

    async def _share_cache(self) -> None:
        """Gives each loaded model an equal part of the prefix caches' memory."""
        caches = [r.cache for r in self._residents.values() if r.cache is not None and r.loaded is not None]

        def share() -> None:
            for cache in caches:
                part = self._settings.prompt_cache_bytes // len(caches)
                cache.index.trim_to(min(part, cache.index.budget))
                cache.index.budget = part

        await self._on_thread(share)

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._thread.call(work))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
