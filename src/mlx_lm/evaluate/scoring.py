"""How likely a model finds continuations: log-probabilities of given tokens, and whether they are what it would write.

What several texts have in common at their beginning is computed once, by states that are copied where the texts part:
the choices of one question share the question, the questions of one task its examples. What is left of each text goes
through the model in batches of equal length, padded behind their ends, where nothing looks. Equal to scoring each text
alone, up to rounding. Log-softmax is done in float32, for the positions that count alone.

This module knows neither tokenizers nor evaluation harnesses.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from ..engine import context_length, new_states
from ..engine.model_states import hidden_and_head
from ..errors import RequestError
from ..kernels import argmax, log_softmax
from ..state import State

__all__ = ["Score", "score_continuations"]

_LOGITS_BYTES = 256 * 2**20  # float32 logits that exist at one time
_WORTH_SHARING = 16  # tokens: shorter common beginnings are computed again
_BATCH_TOKENS = 8192  # of one forward pass, padding included
_WINDOW = 4  # batches that are sorted by length together


@dataclass(frozen=True)
class Score:
    """The sum of a continuation's log-probabilities (nats), and whether each of its tokens is the likeliest."""

    logprob: float
    greedy: bool


@dataclass
class _Target:
    """Where a result goes, and the tokens that follow the positions from `start` on."""

    index: int
    start: int
    tokens: tuple[int, ...]


@dataclass
class _Row:
    """A text to compute: its tokens but the last, and what is wanted of it."""

    tokens: tuple[int, ...]
    targets: list[_Target]

    @property
    def start(self) -> int:
        return min(target.start for target in self.targets)


@dataclass
class _Leaf:
    """A row of which `states` hold the first `known` tokens."""

    row: _Row
    states: list[State]
    known: int


def score_continuations(
    model: nn.Module,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int = 8,
    prefill_step_size: int = 2048,
    progress: Callable[[int, int], object] | None = None,
) -> list[Score]:
    """Scores of continuations given their contexts, in order.

    Args:
        pairs: token ids of (context, continuation). The context has at least one token; where both do not fit the
            model's context, it loses its beginning.
        batch_size: texts computed together.
        progress: called with (pairs done, pairs in all).

    Raises:
        RequestError: a context is empty, a continuation alone is too long, or a size is out of range.
    """
    if batch_size < 1 or prefill_step_size < 1:
        raise RequestError(f"Sizes must be at least 1: batch_size={batch_size}, prefill_step_size={prefill_step_size}.")
    rows = sorted(_rows(pairs, context_length(model)), key=lambda row: row.tokens)
    scores = [Score(0.0, True)] * len(pairs)  # of an empty continuation
    scorer = _Scorer(model, prefill_step_size)
    done = len(pairs) - sum(len(row.targets) for row in rows)
    window: list[_Leaf] = []
    leaves = scorer.leaves(rows)
    while True:
        leaf = next(leaves, None)
        if leaf is not None:
            window.append(leaf)
        if window and (leaf is None or len(window) == batch_size * _WINDOW):
            for batch in _batches(window, batch_size):
                for index, score in scorer.compute(batch):
                    scores[index] = score
                    done += 1
                if progress is not None:
                    progress(done, len(pairs))
            window = []
        if leaf is None:
            return scores


def _rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], limit: int | None) -> list[_Row]:
    rows: dict[tuple[int, ...], _Row] = {}
    for index, (context, continuation) in enumerate(pairs):
        if not len(context):
            raise RequestError(
                f"Pair {index} has an empty context: at least one token must come before what is scored."
            )
        if limit is not None and len(continuation) > limit:
            raise RequestError(
                f"Pair {index} scores {len(continuation):,} tokens, but the model's context holds {limit:,}."
            )
        if not len(continuation):
            continue
        tokens = (*context, *continuation[:-1])
        tokens = tokens if limit is None else tokens[-limit:]
        start = len(tokens) - len(continuation)
        row = rows.setdefault(tokens, _Row(tokens, []))
        row.targets.append(_Target(index, start, tuple(continuation)))
    return list(rows.values())


def _common(a: Sequence[int], b: Sequence[int], start: int, end: int) -> int:
    """The first position in [start, end) in which `a` and `b` differ; `end` if there is none."""
    for i in range(start, end):
        if a[i] != b[i]:
            return i
    return end


def _batches(leaves: list[_Leaf], batch_size: int) -> Iterator[list[_Leaf]]:
    """The leaves, those of like lengths together."""
    batch: list[_Leaf] = []
    for leaf in sorted(leaves, key=lambda leaf: len(leaf.row.tokens) - leaf.known):
        length = len(leaf.row.tokens) - leaf.known
        if batch and (len(batch) == batch_size or (len(batch) + 1) * length > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(leaf)
    if batch:
        yield batch


class _Scorer:
    """Computes leaves of one model."""

    def __init__(self, model: nn.Module, step: int) -> None:
        self._model = model
        self._step = step
        self._hidden, self._head = hidden_and_head(model)
        vocabulary = getattr(getattr(model, "args", None), "vocab_size", None) or 2**17
        self._positions = max(_LOGITS_BYTES // (4 * int(vocabulary)), 1)

    def leaves(self, rows: Sequence[_Row]) -> Iterator[_Leaf]:
        """The rows, sorted by their tokens, with the states of beginnings that they share."""
        # (rows, tokens that all have in common, states, tokens that these hold)
        waiting: list[tuple[Sequence[_Row], int, list[State], int]] = []
        if rows:
            waiting.append((rows, 0, new_states(self._model), 0))
        while waiting:
            group, same, states, known = waiting.pop()
            if len(group) == 1:
                yield _Leaf(group[0], [state.copy() for state in states], known)
                continue
            same = _common(group[0].tokens, group[-1].tokens, same, min(row.start for row in group))
            if same - known >= _WORTH_SHARING:
                states = [state.copy() for state in states]
                self._feed(states, group[0].tokens[known:same])
                known = same
            waiting += ((part, same, states, known) for part in reversed(_parts(group, same)))

    def _feed(self, states: list[State], tokens: Sequence[int]) -> mx.array:
        """Computes tokens with one sequence's states; returns the last piece's hidden states (1, L, D)."""
        out = mx.zeros((1, 0, 1))
        for start in range(0, len(tokens), self._step):
            out = self._hidden(mx.array([list(tokens[start : start + self._step])], mx.int32), states)
            mx.eval([a for state in states for a in state.arrays()] or out)
            mx.clear_cache()
        return out

    def compute(self, batch: list[_Leaf]) -> Iterator[tuple[int, Score]]:
        """(index, score) of each target; the leaves' states are used up."""
        if len(batch) == 1:
            wanted = [self._alone(batch[0])]
        else:
            suffixes = [leaf.row.tokens[leaf.known :] for leaf in batch]
            longest = max(map(len, suffixes))
            ids = mx.array([[*s, *[0] * (longest - len(s))] for s in suffixes], mx.int32)  # (B, L)
            layers = [list(layer) for layer in zip(*(leaf.states for leaf in batch), strict=True)]
            out = self._hidden(ids, layers)
            wanted = [
                out[i, leaf.row.start - leaf.known : len(leaf.row.tokens) - leaf.known] for i, leaf in enumerate(batch)
            ]
        for leaf, hidden in zip(batch, wanted, strict=True):
            for target in leaf.row.targets:
                yield target.index, self._score(hidden[target.start - leaf.row.start :], target.tokens)

    def _alone(self, leaf: _Leaf) -> mx.array:
        """The hidden states (n, D) from the row's first scored position on, with bounded memory for long rows."""
        row = leaf.row
        self._feed(leaf.states, row.tokens[leaf.known : row.start])
        pieces = []
        for start in range(row.start, len(row.tokens), self._step):
            pieces.append(self._feed(leaf.states, row.tokens[start : start + self._step])[0])
        return mx.concatenate(pieces)

    def _score(self, hidden: mx.array, tokens: tuple[int, ...]) -> Score:
        """The score of tokens (n,), each after a position of `hidden` (n, D)."""
        total, greedy = [], True
        for start in range(0, len(tokens), self._positions):
            piece = hidden[start : start + self._positions]
            logits = (piece if self._head is None else self._head(piece)).astype(mx.float32)
            targets = mx.array(tokens[start : start + self._positions], mx.int32)
            chosen = mx.take_along_axis(log_softmax(logits), targets[:, None], axis=-1)[:, 0]
            best = mx.all(argmax(logits) == targets)
            mx.eval(chosen, best)
            total += chosen.tolist()  # type: ignore[operator]
            greedy = greedy and bool(best.item())
        return Score(math.fsum(total), greedy)


def _parts(rows: Sequence[_Row], position: int) -> list[list[_Row]]:
    """Rows with the same token at `position` together; alone, those whose scored positions begin there."""
    alone = [[row] for row in rows if row.start <= position]
    others = (row for row in rows if row.start > position)
    return [*alone, *(list(run) for _, run in itertools.groupby(others, key=lambda row: row.tokens[position]))]
