"""All MLX work of the engine: prompts, decode steps, sampling. Runs on one thread, the one that calls it.

A sequence's states hold every token but its last one, which is its next input. The runner does not decide what to
compute, or when a sequence ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..state import State
from .request import Request

__all__ = ["ActiveSequence", "Runner", "hidden_and_head", "token_id"]


@dataclass
class ActiveSequence:
    """A request that is being computed."""

    uid: int
    request: Request
    states: list[State]
    done: int = 0  # prompt tokens computed
    generated: list[int] = field(default_factory=list)
    history: mx.array | None = None  # all tokens so far (n,), kept only for logits processors
    pending: mx.array | None = None  # the sampled token that was not fed yet, shape (1,)
    ahead: "_Ahead | None" = None

    @property
    def remaining(self) -> int:
        return len(self.request.prompt) - self.done


@dataclass
class _Ahead:
    """A step computed before it was asked for, and how to take it back."""

    token: mx.array
    logprobs: mx.array
    marks: list[Any]


def token_id(token: mx.array) -> int:
    """The id in an array of one element; waits for it."""
    return int(token.item())  # type: ignore[arg-type]


def hidden_and_head(model: nn.Module) -> tuple[Any, Any]:
    """The model's two halves, so that a prompt needs no logits but the last; models from elsewhere are one half."""
    hidden, logits = getattr(model, "hidden", None), getattr(model, "logits", None)
    if callable(hidden) and callable(logits):
        return hidden, logits
    return model, None


class Runner:
    """Computes with one model.

    Args:
        look_ahead: start the next decode step before the last token is read, which keeps a GPU busy; costs a wasted
            step at the end of each sequence, and is not used where a logits processor must see every token first.
    """

    def __init__(self, model: nn.Module, *, look_ahead: bool | None = None):
        self.model = model
        self._hidden, self._head = hidden_and_head(model)
        gpu = mx.default_device().type == mx.DeviceType.gpu
        self.look_ahead = gpu if look_ahead is None else look_ahead

    def prefill(self, sequence: ActiveSequence, length: int) -> None:
        """Computes the next `length` prompt tokens; the first new token is sampled with the last of them."""
        request, start = sequence.request, sequence.done
        last = start + length == len(request.prompt)
        ids = mx.array(request.prompt[start : start + length], mx.int32)[None]
        embeddings = request.input_embeddings
        kwargs = {} if embeddings is None else {"input_embeddings": embeddings[None, start : start + length]}
        out = self._hidden(ids, sequence.states, **kwargs)
        sequence.done += length
        if last:
            sequence.pending, sequence.ahead = None, None
            self._sample_into(sequence, self._logits(out[:, -1:])[:, -1])
        else:
            mx.eval([a for state in sequence.states for a in state.arrays()] or out)
            mx.clear_cache()  # the chunk's activations would otherwise stay beside those of the next

    def decode(self, sequences: Sequence[ActiveSequence]) -> list[tuple[int, mx.array]]:
        """One token for each sequence: (id, log-probabilities (V,)); the token becomes the next input."""
        fresh = [s for s in sequences if s.ahead is None]
        if fresh:
            self._advance(fresh)
        results = []
        ready = [(s, s.ahead) for s in sequences]
        if self.look_ahead:
            followers = [s for s in sequences if self._may_look_ahead(s)]
            for sequence in sequences:
                self._take(sequence)
            if followers:
                self._advance(followers)
        else:
            for sequence in sequences:
                self._take(sequence)
        for _, step in ready:
            assert step is not None
            results.append((token_id(step.token), step.logprobs))
        return results

    def rewind(self, sequence: ActiveSequence) -> None:
        """Takes back what was computed ahead, so that the states hold all tokens but the last emitted."""
        if sequence.ahead is not None:
            for state, mark in zip(sequence.states, sequence.ahead.marks, strict=True):
                state.restore(mark)
            sequence.ahead = None

    def _may_look_ahead(self, sequence: ActiveSequence) -> bool:
        request = sequence.request
        left = None if request.max_tokens is None else request.max_tokens - len(sequence.generated)
        return not request.logits_processors and (left is None or left > 1)

    def _take(self, sequence: ActiveSequence) -> None:
        step = sequence.ahead
        assert step is not None
        sequence.pending, sequence.ahead = step.token, None

    def _advance(self, sequences: Sequence[ActiveSequence]) -> None:
        """Feeds each sequence's pending token and samples the next."""
        inputs = mx.stack([s.pending for s in sequences if s.pending is not None])  # (B, 1)
        if len(sequences) == 1:
            marks = [[state.snapshot() for state in sequences[0].states]]
            out = self._hidden(inputs, sequences[0].states)
        else:
            marks = [[state.snapshot() for state in s.states] for s in sequences]
            out = self._hidden(inputs, [list(layer) for layer in zip(*(s.states for s in sequences), strict=True)])
        logits = self._logits(out)[:, -1]
        for i, (sequence, mark) in enumerate(zip(sequences, marks, strict=True)):
            self._sample_into(sequence, logits[i : i + 1], mark)
        mx.async_eval([s.ahead.token for s in sequences if s.ahead is not None])

    def _sample_into(self, sequence: ActiveSequence, logits: mx.array, marks: list[Any] | None = None) -> None:
        request = sequence.request
        if request.logits_processors:
            tokens = self._history(sequence)
            for processor in request.logits_processors:
                logits = processor(tokens, logits)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        takes_logits = getattr(request.sampler, "takes_logits", False)
        token = request.sampler(logits if takes_logits else logprobs).reshape(1)
        if marks is None:
            marks = [state.snapshot() for state in sequence.states]
        sequence.ahead = _Ahead(token, logprobs[0], marks)

    def _history(self, sequence: ActiveSequence) -> mx.array:
        """Every token so far, prompt first, as a 1-D array that grows by one a call."""
        request = sequence.request
        if sequence.history is None:
            tokens = request.history + request.prompt + tuple(sequence.generated)
            sequence.history = mx.array(tokens, mx.int32)
        else:
            sequence.history = mx.concatenate([sequence.history, mx.array(sequence.generated[-1:], mx.int32)])
        return sequence.history

    def _logits(self, out: mx.array) -> mx.array:
        return out if self._head is None else self._head(out)
