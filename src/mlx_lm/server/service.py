"""The one object that protocol adapters call, and what they get back.

Contract: an adapter needs nothing but these protocols. `open` has admitted the work when it returns: everything that
can be refused was refused before, by an error of `mlx_lm.errors`. A job's events come by `async for`; leaving its
`async with` cancels it within one step of the engine. The real service is `core.ModelService`; tests use a fake.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .work import (
    Finished,
    Reasoning,
    Text,
    TokenLogprob,
    ToolArguments,
    ToolEnd,
    ToolStart,
    Usage,
    Work,
    WorkEvent,
)

__all__ = ["Answer", "Call", "Embeddings", "Job", "ModelInfo", "Service", "collect"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that clients may name. `created` is a Unix time; `context_length` None while it is not known.

    `aliases` are names in full; patterns that stand for the model as well (`claude-*`) are known to `Service.model`.
    """

    id: str
    created: int = 0
    context_length: int | None = None
    loaded: bool = False
    pinned: bool = False
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    kind: str = "generate"  # or "embed"


@dataclass(frozen=True)
class Embeddings:
    """A vector for each input, and the tokens of all."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    model: str


class Job(Protocol):
    """One admitted `Work`. `model` is the id that answers, `prompt_tokens` are counted already."""

    @property
    def model(self) -> str: ...

    @property
    def prompt_tokens(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[WorkEvent]:
        """The events, once. A failure is raised here, after the events that came before it."""
        ...

    async def cancel(self) -> None:
        """Ends the job within one step; harmless when it has ended."""
        ...

    async def __aenter__(self) -> Job: ...

    async def __aexit__(self, *_: object) -> None: ...


class Service(Protocol):
    """What the server can do."""

    async def open(self, work: Work) -> Job:
        """Admits `work`.

        Raises:
            ModelNotFoundError: the model or adapter is not one that clients may name.
            RequestError: a value is out of range; the message names it.
            ContextLengthError: the prompt does not fit; carries both numbers.
            UnsupportedError: the model or the combination cannot do it.
            OverloadedError: too much waits already; carries `retry_after`.
            ChatTemplateError: the template refused the messages.
        """
        ...

    async def count_tokens(self, work: Work) -> int:
        """Tokens of the prompt that `work` makes. Raises as `open`."""
        ...

    async def embed(
        self, model: str | None, inputs: Sequence[str | Sequence[int]], dimensions: int | None = None
    ) -> Embeddings:
        """A unit vector for each text or list of token ids. UnsupportedError unless it is an embedding model."""
        ...

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that clients may name, the default one first."""
        ...

    def model(self, name: str) -> ModelInfo | None:
        """The one of `models()` that answers a request for `name`: an id, an alias or what fits a pattern."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Queue, batch, cache and memory, for /health, /metrics, /status.json and the web page."""
        ...


@dataclass(frozen=True)
class Call:
    """A complete tool call; `arguments` is the text of one JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """A whole answer, for replies that are not streamed. `parts` keeps the order: "text", "reasoning" or a `Call`."""

    text: str
    reasoning: str
    calls: tuple[Call, ...]
    finished: Finished
    logprobs: tuple[TokenLogprob, ...] = ()
    parts: tuple[tuple[str, str | Call], ...] = ()

    @property
    def usage(self) -> Usage:
        return self.finished.usage


@dataclass
class _Collector:
    parts: list[tuple[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    open_calls: dict[int, tuple[ToolStart, list[str]]] = field(default_factory=dict)
    finished: Finished | None = None

    def add(self, event: WorkEvent) -> None:
        match event:
            case Text(text, logprobs):
                self._join("text", text)
                self.logprobs += logprobs
            case Reasoning(text, logprobs):
                self._join("reasoning", text)
                self.logprobs += logprobs
            case ToolStart(index):
                self.open_calls[index] = (event, [])
            case ToolArguments(index, fragment):
                self.open_calls[index][1].append(fragment)
            case ToolEnd(index, failed):
                start, fragments = self.open_calls.pop(index)
                if not failed:
                    self.parts.append(("call", Call(start.id, start.name, "".join(fragments))))
            case Finished():
                self.finished = event
            case _:
                pass

    def _join(self, kind: str, text: str) -> None:
        if self.parts and self.parts[-1][0] == kind:
            self.parts[-1] = (kind, self.parts[-1][1] + text)
        elif text:
            self.parts.append((kind, text))


async def collect(job: Job) -> Answer:
    """All events of a job as one answer; raises what the job raises."""
    collector = _Collector()
    async for event in job:
        collector.add(event)
    parts = collector.parts
    assert collector.finished is not None, "a job that does not fail ends with Finished"
    return Answer(
        text="".join(text for kind, text in parts if kind == "text"),
        reasoning="".join(text for kind, text in parts if kind == "reasoning"),
        calls=tuple(call for kind, call in parts if kind == "call"),
        finished=collector.finished,
        logprobs=tuple(collector.logprobs),
        parts=tuple(parts),
    )
