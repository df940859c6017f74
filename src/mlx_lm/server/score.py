"""Log-probabilities of a prompt's own tokens, for `echo`: what evaluation harnesses ask for.

The prompt is computed in pieces on the engine's thread, so that running answers go on between them. This module does
not know requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..engine import new_states
from ..engine.runner import hidden_and_head
from ..engine.thread import EngineThread
from ..kernels import log_softmax
from .loading import Loaded
from .output import TokenNote, token_logprob
from .work import TokenLogprob

__all__ = ["score_prompt", "token_note"]

PIECE = 256  # tokens: their logits over a large vocabulary take about 150 MB
_LEAST = -9999.0  # JSON has no infinity


async def score_prompt(
    thread: EngineThread, loaded: Loaded, tokens: Sequence[int], top: int
) -> tuple[TokenLogprob, ...]:
    """An entry for each token; the first has no log-probability, because nothing comes before it."""
    states = await _call(thread, lambda: new_states(loaded.engine.model, loaded.kv))
    notes: list[TokenNote | None] = [None]
    for start in range(0, len(tokens) - 1, PIECE):
        end = min(start + PIECE, len(tokens) - 1)
        piece, following = tokens[start:end], tokens[start + 1 : end + 1]
        notes += await _call(thread, lambda p=piece, f=following: _score(loaded.engine.model, states, p, f, top))
    entries, offset = [], 0
    for token, note in zip(tokens, notes, strict=True):
        entry = token_logprob(loaded.tokenizer, token, note, offset)
        offset += len(entry.text)
        entries.append(entry)
    return tuple(entries)


def token_note(token: int, logprobs: mx.array, top: int) -> TokenNote:
    """The numbers of one token whose log-probabilities are `logprobs` (V,)."""
    count = min(top, logprobs.shape[-1])
    best = mx.argpartition(-logprobs, kth=count - 1)[:count] if count else mx.zeros((0,), mx.uint32)
    values, chosen = logprobs[best].astype(mx.float32), logprobs[token].astype(mx.float32)
    mx.eval(best, values, chosen)
    numbers: Any = (best.tolist(), values.tolist(), chosen.item())
    return TokenNote(max(numbers[2], _LEAST), _ranked(numbers[0], numbers[1]))


async def _call(thread: EngineThread, work: Any) -> Any:
    return await asyncio.wrap_future(thread.call(work))


def _score(model: Any, states: list[Any], piece: Sequence[int], following: Sequence[int], top: int) -> list[TokenNote]:
    """Notes of `following`, each after the token of `piece` in its place; moves `states` forward."""
    hidden, head = hidden_and_head(model)
    out = hidden(mx.array(list(piece), mx.int32)[None], states)
    logits = (out if head is None else head(out))[0].astype(mx.float32)  # (L, V)
    logprobs = log_softmax(logits)
    chosen = mx.take_along_axis(logprobs, mx.array(list(following), mx.int32)[:, None], axis=-1)[:, 0]
    count = min(top, logprobs.shape[-1])
    if count:
        best = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[:, :count]
    else:
        best = mx.zeros((len(piece), 0), mx.uint32)
    values = mx.take_along_axis(logprobs, best, axis=-1)
    mx.eval(chosen, best, values, [a for state in states for a in state.arrays()])
    rows: Any = zip(chosen.tolist(), best.tolist(), values.tolist(), strict=True)  # type: ignore[arg-type]
    return [TokenNote(max(c, _LEAST), _ranked(b, v)) for c, b, v in rows]


def _ranked(ids: list[int], values: list[float]) -> tuple[tuple[int, float], ...]:
    pairs = ((i, max(v, _LEAST)) for i, v in zip(ids, values, strict=True))
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
