"""A service without a model: it plays scripted events and notes what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from mlx_lm.server.service import Embeddings, ModelInfo
from mlx_lm.server.work import Finished, Started, Text, Usage, Work, WorkEvent

__all__ = ["FakeJob", "FakeService", "answer"]

Script = Sequence[WorkEvent | Exception]


def answer(text: str = "Hello!", *, prompt_tokens: int = 5, reason: Any = "stop") -> list[WorkEvent]:
    """The events of a plain answer, a piece for each word."""
    pieces = [Text(word + " ") for word in text.split(" ")[:-1]] + [Text(text.split(" ")[-1])]
    usage = Usage(prompt_tokens, 0, len(pieces), 0)
    return [Started(prompt_tokens, 0), *pieces, Finished(reason, usage)]


class FakeJob:
    """Plays a script; an exception in it is raised at its place. `delay` seconds pass before each event."""

    def __init__(self, script: Script, model: str = "tiny", delay: float = 0.0) -> None:
        self.model = model
        self.prompt_tokens = next((e.prompt_tokens for e in script if isinstance(e, Started)), 0)
        self.cancelled = False
        self._script = list(script)
        self._delay = delay

    async def __aiter__(self) -> AsyncIterator[WorkEvent]:
        for event in self._script:
            await asyncio.sleep(self._delay)
            if self.cancelled:
                return
            if isinstance(event, Exception):
                raise event
            yield event

    async def cancel(self) -> None:
        self.cancelled = True

    async def __aenter__(self) -> FakeJob:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()


class FakeService:
    """Gives the scripts in turn, the last one again and again; an exception as a script is raised by `open`.

    `works` are the `Work`s that were opened or counted, `jobs` the jobs.
    """

    def __init__(self, *scripts: Script | Exception, tokens: int = 7, delay: float = 0.0) -> None:
        self.works: list[Work] = []
        self.jobs: list[FakeJob] = []
        self.embedded: list[Any] = []
        self._scripts = list(scripts) or [answer()]
        self._tokens = tokens
        self._delay = delay

    async def open(self, work: Work) -> FakeJob:
        self.works.append(work)
        script = self._scripts[min(len(self.jobs), len(self._scripts) - 1)]
        if isinstance(script, Exception):
            raise script
        job = FakeJob(script, work.model or "tiny", self._delay)
        self.jobs.append(job)
        return job

    async def count_tokens(self, work: Work) -> int:
        self.works.append(work)
        return self._tokens

    async def embed(
        self, model: str | None, inputs: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embeddings:
        self.embedded.append((model, inputs, dimensions))
        return Embeddings(tuple((1.0, 0.0) for _ in inputs), len(inputs), model or "tiny")

    def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo("tiny", 1_700_000_000, 4096, loaded=True, aliases=("gpt-tiny",)), ModelInfo("other"))

    def model(self, name: str) -> ModelInfo | None:
        return next((info for info in self.models() if name in (info.id, *info.aliases)), None)

    def status(self) -> Mapping[str, Any]:
        return {"ready": True}
