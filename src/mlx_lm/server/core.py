"""The service over real models: admission, tokenizing in worker threads, requests to the engine's thread.

Contract: see `service.Service`. The event loop never computes with MLX and never tokenizes; the engine's thread never
waits for the loop. This module does not know HTTP or any protocol.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ..embed import EmbeddingModel
from ..engine.prefix.disk import DiskStore
from ..engine.thread import EngineThread, Ticket
from ..errors import AdapterError, MLXLMError, ModelNotFoundError, OverloadedError
from ..tokenizer.parsers import StreamParser
from .catalog import Catalog, Choice
from .job import EngineJob
from .metrics import Metrics
from .options import ServerSettings
from .output import OutputReader
from .prompt import Prepared, prepare, prompt_tokens
from .reports import model_info, model_infos, service_status
from .requests import Fault, build_request, listener
from .residency import Lease, Residency
from .sampling import Defaults
from .score import score_prompt
from .service import Embeddings, ModelInfo
from .work import Text, Work

__all__ = ["ModelService"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_WORKERS = 4


class ModelService:
    """Answers with the models of a catalog.

    Args:
        settings: the operator's.
        check: verify the engines' books whenever they fall idle.
        fault: see `requests.Fault`.
    """

    def __init__(self, settings: ServerSettings, *, check: bool = False, fault: Fault | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.catalog = Catalog(settings)
        self.thread = EngineThread(check=check)
        self.disk = _open_disk(settings)
        self.residency = Residency(self.catalog, settings, self.thread, self.disk)
        self.jobs: set[EngineJob] = set()
        self.started = int(time.time())
        self.draining = False
        self._opening = 0
        self._fault = fault
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mlx-lm-text")
        self._defaults = Defaults(settings.temp, settings.top_p, settings.top_k, settings.min_p)
        self._reaper: asyncio.Task[None] | None = None

    # Life.

    async def start(self) -> None:
        """Loads the default and the pinned models, so that what is wrong with them is said at the start."""
        if self.settings.model_ttl is not None:
            self._reaper = asyncio.create_task(self._reap())
        names = [None] if self.catalog.default is not None else []
        for name in (*sorted(self.catalog.pinned), *names):
            (await self.residency.acquire(self.catalog.find(name))).release()

    async def drain(self, seconds: float) -> None:
        """Refuses new work and waits until what runs has ended, at most `seconds`."""
        self.draining = True
        end = time.monotonic() + seconds
        while self.jobs and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Ends everything: jobs, threads, the disk store."""
        self.draining = True
        if self._reaper is not None:
            self._reaper.cancel()
        for job in list(self.jobs):
            await job.cancel()
        await asyncio.to_thread(self.thread.stop, 60.0)
        if self.disk is not None:
            await asyncio.to_thread(self.disk.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _reap(self) -> None:
        period = min(max((self.settings.model_ttl or 1.0) / 4, 0.05), 1.0)
        while True:
            await asyncio.sleep(period)
            try:
                await self.residency.unload_unused()
            except MLXLMError:
                _log.exception("An unused model could not be unloaded")

    # Work.

    async def open(self, work: Work) -> EngineJob:
        """See `Service.open`."""
        self._admit()
        choice = self.catalog.find(work.model, work.adapter)
        self._opening += 1
        try:
            lease = await self._lease(choice)
            try:
                return await self._open(work, lease)
            except BaseException:
                lease.release()
                raise
        finally:
            self._opening -= 1

    async def _lease(self, choice: Choice) -> Lease:
        return await self._files_told(self.residency.acquire, choice)

    async def _files_told(self, acquire: Callable[[Choice], Awaitable[_T]], choice: Choice) -> _T:
        """A lease; what is wrong with an operator's files is told without their paths."""
        try:
            return await acquire(choice)
        except AdapterError as error:
            _log.warning("The adapter %s cannot be used: %s", choice.adapter_name, error)
            message = f"The adapter {choice.adapter_name!r} does not fit the model {choice.source.id!r}."
            raise AdapterError(message) from error
        except ModelNotFoundError as error:
            if not choice.source.local:
                raise
            raise MLXLMError(f"The files of {choice.source.id} are not where the settings say.") from error

    def _admit(self) -> None:
        if self.draining or not self.thread.alive:
            raise OverloadedError(len(self.jobs), 5.0)
        waiting = self._opening + sum(not job.started for job in self.jobs)
        running = len(self.jobs) + self._opening
        if waiting > self.settings.max_queue or running >= self.settings.max_queue + self.settings.max_batch_size:
            raise OverloadedError(waiting, self._retry_after())

    def _retry_after(self) -> float:
        """Seconds in which a place should be free: the mean time of an answer, spread over the batch."""
        whole = self.metrics.whole
        mean = whole.total / whole.count if whole.count else 2.0
        return min(max(mean * (1 + len(self.jobs) / self.settings.max_batch_size), 1.0), 60.0)

    async def _open(self, work: Work, lease: Lease) -> EngineJob:
        style = lease.loaded.style
        prepared = await asyncio.get_running_loop().run_in_executor(self._pool, prepare, work, style)
        echoed = await self._echo(work, prepared, lease) if work.echo else None
        reader = self._reader(work, prepared, lease)
        job = EngineJob(work, prepared, lease, reader, self.metrics, lambda: self.jobs.discard(job), echoed)
        self.jobs.add(job)
        try:
            if prepared.max_tokens != 0:
                await self._submit(work, prepared, lease, job)
        except BaseException:
            await job.cancel()
            raise
        return job

    def _reader(self, work: Work, prepared: Prepared, lease: Lease) -> OutputReader:
        parser, choice = None, work.tool_choice
        forced = choice.mode in ("required", "named")
        if prepared.parsers is not None:
            tools = [tool.as_function() for tool in work.tools] or None
            parser = StreamParser(
                prepared.parsers,
                tools=tools,
                in_reasoning=prepared.in_reasoning,
                forced=forced,
            )
        at = None if self._fault is None else partial(self._fault, work)
        return OutputReader(
            lease.loaded.tokenizer,
            parser,
            prepared.stop,
            in_reasoning=prepared.in_reasoning,
            one_call=forced or not choice.parallel,
            offset=len(prepared.text) if work.echo else 0,
            at=at,
        )

    async def _echo(self, work: Work, prepared: Prepared, lease: Lease) -> Text:
        """The prompt as the beginning of the answer, scored if log-probabilities are wanted."""
        if work.top_logprobs is None:
            return Text(prepared.text)
        scored = await score_prompt(self.thread, lease.loaded, prepared.tokens, work.top_logprobs)
        return Text(prepared.text, scored)

    async def _submit(self, work: Work, prepared: Prepared, lease: Lease, job: EngineJob) -> None:
        """Hands the request to the engine and waits until it is admitted or refused."""
        thread, loaded = self.thread, lease.loaded

        def submit() -> tuple[Ticket, Future[None]]:
            request = build_request(
                work, prepared, loaded, self._defaults, time_limit=self.settings.request_timeout, fault=self._fault
            )
            ticket = thread.submit(loaded.engine, request, listener(job, work.top_logprobs))
            # Commands are obeyed in order: when the second is done, the engine has seen the request.
            return ticket, thread.call(lambda: None)

        ticket, seen = await asyncio.wrap_future(thread.call(submit))
        job.attach(ticket)
        await asyncio.wrap_future(seen)
        error = job.admission_error()
        if error is not None:
            self.metrics.failed(error)
            raise error

    async def count_tokens(self, work: Work) -> int:
        """See `Service.count_tokens`."""
        lease = await self._lease(self.catalog.find(work.model, work.adapter))
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, prompt_tokens, work, lease.loaded.style)
        finally:
            lease.release()

    async def embed(
        self, model: str | None, inputs: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embeddings:
        """See `Service.embed`."""
        self._admit()
        lease = await self._files_told(self.residency.acquire_embedder, self.catalog.find(model))
        try:
            embedder = lease.loaded.model
            loop = asyncio.get_running_loop()
            ids = await loop.run_in_executor(self._pool, lambda: [embedder.tokens(text) for text in inputs])
            vectors: list[tuple[float, ...]] = []
            for part in _parts(ids):  # other requests get their turns between the parts
                found = await asyncio.wrap_future(self.thread.call(partial(_vectors, embedder, part, dimensions)))
                vectors += found
        finally:
            lease.release()
        return Embeddings(tuple(vectors), sum(map(len, ids)), lease.loaded.id)

    # Reports.

    def models(self) -> tuple[ModelInfo, ...]:
        """See `Service.models`."""
        return model_infos(self.catalog, self.residency, self.started)

    def model(self, name: str) -> ModelInfo | None:
        """See `Service.model`."""
        return model_info(self.catalog, self.models(), name)

    def status(self) -> Mapping[str, Any]:
        """See `Service.status`."""
        return service_status(self)


_PART_TOKENS = 1024


def _parts(texts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Texts in order, in parts of about so many tokens."""
    part: list[list[int]] = []
    for ids in texts:
        if part and sum(map(len, part)) + len(ids) > _PART_TOKENS:
            yield part
            part = []
        part.append(ids)
    if part:
        yield part


def _vectors(model: EmbeddingModel, texts: list[list[int]], dimensions: int | None) -> list[tuple[float, ...]]:
    rows: Any = model.embed(texts, dimensions).tolist()
    return [tuple(row) for row in rows]


def _open_disk(settings: ServerSettings) -> DiskStore | None:
    if settings.disk_prompt_cache_dir is None:
        return None
    store = DiskStore(settings.disk_prompt_cache_dir, budget_bytes=settings.disk_prompt_cache_bytes)
    if store.problem is not None:
        _log.warning("Prefixes will not outlive the server: %s", store.problem)
    return store
