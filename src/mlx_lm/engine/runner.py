"""All MLX work of the engine: prompts, decode steps, checks of guesses, sampling. Runs on one thread, its caller's.

A sequence's states hold every token but its last one, which is its next input. A step feeds that token, and after it
tokens that are certain (a grammar forces them) or guessed (speculation); what it gives out is what single steps would
have. The runner does not decide what to compute, or when a sequence ends.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import kernels
from ..sampling import greedy_sampler
from .masks import mask_logits
from .model_states import hidden_and_head
from .proposal import Proposal, propose
from .rewind import Mark
from .sequence import ActiveSequence, Ahead, Piece, Round

__all__ = ["ActiveSequence", "Emit", "Runner", "SpeculationCounters", "hidden_and_head", "token_id"]

# Gives out a token: (sequence, token, log-probabilities (V,), whether it was guessed) -> whether the sequence goes on.
Emit = Callable[[ActiveSequence, int, mx.array, bool], bool]


@dataclass
class SpeculationCounters:
    """Tokens guessed, of these right and given out, and tokens that grammars forced."""

    drafted: int = 0
    accepted: int = 0
    forced: int = 0


@dataclass
class _Step:
    """One forward pass of proposals of equal length: hidden states (B, L, D), logits (B, L - start, V) of the last."""

    proposals: list[Proposal]
    marks: list[Mark]
    hidden: mx.array
    logits: mx.array
    start: int  # before it, tokens are certain in every row, so that nobody needs logits to choose them


def token_id(token: mx.array) -> int:
    """The id in an array of one element; waits for it."""
    return int(token.item())  # type: ignore[arg-type]


class Runner:
    """Computes with one model.

    Args:
        look_ahead: start the next decode step before the last token is read, which keeps a GPU busy; costs a wasted
            step at the end of each sequence, and is not used where something must see every token first.
    """

    def __init__(self, model: nn.Module, *, look_ahead: bool | None = None):
        self.model = model
        self.counters = SpeculationCounters()
        self._hidden, self._head = hidden_and_head(model)
        self.in_parts = bool(getattr(model, "goes_in_parts", False))
        gpu = mx.default_device().type == mx.DeviceType.gpu
        self.look_ahead = gpu if look_ahead is None else look_ahead

    def prefill(self, sequence: ActiveSequence, length: int) -> None:
        """Computes the next `length` prompt tokens; the first new token is sampled with the last of them."""
        ids, given = _next_input(sequence, length)
        self._prefilled(sequence, length, self._hidden(ids, sequence.states, **given))

    def begin(self, sequence: ActiveSequence, length: int) -> None:
        """Makes the next `length` prompt tokens the sequence's piece, for `go_on`; the model `goes_in_parts`."""
        ids, given = _next_input(sequence, length)
        mark = sequence.rewind.mark()
        sequence.piece = Piece(length, self.model.hidden_in_parts(ids, sequence.states, **given), mark)  # type: ignore

    def go_on(self, sequence: ActiveSequence, layers: int) -> None:
        """Takes the piece through that many layers more; through the last, it is done as by `prefill`."""
        piece = sequence.piece
        assert piece is not None, "no piece has begun"
        out = piece.work.go_on(layers)
        if not piece.work.left:
            sequence.piece = None
            self._prefilled(sequence, piece.length, out)

    def _prefilled(self, sequence: ActiveSequence, length: int, out: mx.array) -> None:
        """Counts prompt tokens whose hidden states are `out` (1, L, D)."""
        request = sequence.request
        sequence.done += length
        if sequence.drafter is not None:
            sequence.drafter.prefilled(len(request.history) + sequence.done, out)
        if sequence.remaining == 0:
            sequence.pending, sequence.ahead = None, None
            logits = self._logits(out[:, -1:])[:, -1]
            forced = [] if sequence.constraint is None else sequence.constraint.forced()
            if forced:
                token, logprobs = self._choose(sequence, logits, forced[0])
                sequence.ahead = Ahead(mx.array([token], mx.uint32), 0, logprobs, sequence.rewind.mark())
                self.counters.forced += 1
            else:
                self._sample([sequence], logits, [sequence.rewind.mark()])
            if sequence.error is not None:
                raise sequence.error
        else:
            mx.eval([a for state in sequence.states for a in state.arrays()] or out)
            mx.clear_cache()  # the chunk's activations would otherwise stay beside those of the next

    def decode(self, sequences: Sequence[ActiveSequence], emit: Emit) -> None:
        """One step: each sequence gives out a token, or more where some are forced or guessed right.

        A failure of one sequence's own is in its `error`. An exception is nobody's: states and samplers are as before,
        so that each sequence may be tried alone.
        """
        singles, rounds = self._proposals([s for s in sequences if s.ahead is None])
        steps: list[_Step] = []
        try:
            if singles:
                steps.append(self._forward([Proposal(s) for s in singles]))
            for proposals in rounds:
                steps.append(self._forward(proposals))
            mx.async_eval([step.logits for step in steps[bool(singles) :]])
            if singles:
                self._sample(singles, steps[0].logits[:, -1], steps[0].marks)
        except Exception:
            for step in steps:
                _undo([p.sequence for p in step.proposals], step.marks)
            raise
        ready = [s for s in sequences if s.ahead is not None]
        aheads = [s.ahead for s in ready if s.ahead is not None]
        for sequence, ahead in zip(ready, aheads, strict=True):
            sequence.pending, sequence.ahead = ahead.token if self.look_ahead else None, None
        if self.look_ahead:
            self._look_ahead(ready)
        self._give_out(ready, aheads, emit)
        if singles:
            for i, sequence in enumerate(singles):
                if sequence.drafter is not None and sequence.error is None:
                    sequence.drafter.saw(steps[0].hidden[i : i + 1])
        for step in steps[bool(singles) :]:
            for row, proposal in enumerate(step.proposals):
                self._check(proposal, step, row, emit)

    def settle(self, sequence: ActiveSequence) -> None:
        """Brings the states to where others expect them: they hold all tokens but the last given out."""
        if sequence.piece is not None:
            sequence.rewind.to(sequence.piece.mark, 0)
            sequence.piece = None
        if sequence.ahead is not None:
            sequence.rewind.to(sequence.ahead.mark, 0)
            sequence.ahead = None
        if sequence.backlog:
            self._hidden(mx.array([sequence.backlog], mx.int32), sequence.states)
            sequence.backlog = []

    # Proposals.

    def _proposals(self, sequences: Sequence[ActiveSequence]) -> tuple[list[ActiveSequence], list[list[Proposal]]]:
        """Sequences that feed one token, and the proposals of the others, those of equal length together."""
        singles: list[ActiveSequence] = []
        rounds: dict[int, list[Proposal]] = {}
        for sequence in sequences:
            if sequence.constraint is None and sequence.drafter is None:
                singles.append(sequence)
                continue
            try:
                exact = sequence.rewind.exact_room() if sequence.backlog else None
                if exact is not None and exact <= len(sequence.backlog):
                    self.settle(sequence)
                proposal = propose(sequence)
            except Exception as error:
                sequence.error = error
                continue
            if proposal.tokens or proposal.forced or sequence.backlog:
                rounds.setdefault(len(sequence.backlog) + len(proposal.tokens), []).append(proposal)
            else:
                singles.append(sequence)
        return singles, list(rounds.values())

    def _check(self, proposal: Proposal, step: _Step, row: int, emit: Emit) -> None:
        """Gives out what a step found, position by position until a guess is wrong or the sequence ends."""
        sequence, tokens, forced = proposal.sequence, proposal.tokens, proposal.forced
        known, given, accepted = len(sequence.backlog), 0, 0
        early, plain = max(step.start - known, 0), _is_plain(sequence)
        try:
            logits = step.logits[row, max(known - step.start, 0) :]
            # Nobody chooses after a certain token, so its logits are left to those who ask for log-probabilities.
            certain = self._logits(step.hidden[row : row + 1, known : step.start])[0] if early else logits
            ids, rows = _greedy(logits) if plain else (mx.zeros(()), logits)
            chosen: list[int] = ids.tolist() if plain else []  # type: ignore[assignment]
            goes_on = True
            while goes_on and given <= len(tokens):
                i = given
                if plain:
                    token, logprobs = chosen[i], rows[i]
                else:
                    at = certain[i : i + 1] if i < early else logits[i - early : i - early + 1]
                    token, logprobs = self._choose(sequence, at, forced[i] if i < len(forced) else None)
                if sequence.constraint is not None:
                    sequence.constraint.accept(token)
                right = i < len(tokens) and token == tokens[i]
                guessed = right and i >= len(forced)
                accepted += guessed
                given += 1
                goes_on = emit(sequence, token, logprobs, guessed) and right
            self._keep(sequence, step.marks[row], len(tokens) + 1 - given, given)
            if sequence.drafter is not None:
                sequence.drafter.saw(step.hidden[row : row + 1, known : known + given])
        except Exception as error:
            sequence.error = error
            return
        if sequence.gate is not None:
            sequence.gate.step(given, proposal.drafted, accepted)
        self.counters.drafted += proposal.drafted
        self.counters.accepted += accepted
        self.counters.forced += min(given, len(forced))

    def take_back(self, sequence: ActiveSequence, count: int) -> None:
        """Takes back the last `count` tokens of the latest step, which nobody has seen."""
        last = sequence.last_round
        if count <= 0 or last is None:
            return
        kept = last.given - count
        assert kept >= 0, "only the latest step can be taken back"
        certain = [*last.fed, *sequence.generated[-last.given :]][: len(last.fed) + kept]
        del sequence.generated[-count:]
        if sequence.drafter is not None:
            del sequence.drafter.tokens[-count:]
        sequence.pending, sequence.last_round = certain.pop(), None
        self._hold(sequence, last.mark, certain)

    def _keep(self, sequence: ActiveSequence, mark: Mark, wrong: int, given: int) -> None:
        """Leaves in the states what is certain, after a step that gave out `given` tokens and fed `wrong` others."""
        fed = [*sequence.backlog, _known(sequence.pending)]
        sequence.backlog, sequence.pending = [], sequence.generated[-1]
        if wrong:
            self._hold(sequence, mark, [*fed, *sequence.generated[-given:-1]])
        sequence.last_round = Round(mark, fed, given)

    def _hold(self, sequence: ActiveSequence, mark: Mark, tokens: list[int]) -> None:
        """Leaves in the states, of what came after the mark, `tokens`, with which it began."""
        if sequence.rewind.to(mark, len(tokens)):
            sequence.backlog = []
        else:  # recurrent states go back to the mark
            sequence.rewind.to(mark, 0)
            sequence.backlog = tokens

    # Steps.

    def _forward(self, proposals: list[Proposal]) -> _Step:
        """Feeds each sequence its last token and its proposal, all of equal length."""
        sequences = [p.sequence for p in proposals]
        inputs = _inputs(proposals)
        marks = [s.rewind.mark() for s in sequences]
        try:
            if len(sequences) == 1:
                hidden = self._hidden(inputs, sequences[0].states)
            else:
                hidden = self._hidden(
                    inputs, [list(layer) for layer in zip(*(s.states for s in sequences), strict=True)]
                )
            start = min(p.certain for p in proposals)
            return _Step(proposals, marks, hidden, self._logits(hidden[:, start:] if start else hidden), start)
        except Exception:
            _undo(sequences, marks)
            raise

    def _look_ahead(self, sequences: Sequence[ActiveSequence]) -> None:
        followers = [s for s in sequences if _may_look_ahead(s)]
        if not followers:
            return
        # The tokens at hand come first: the next step will meet a failure again.
        with contextlib.suppress(Exception):
            step = self._forward([Proposal(s) for s in followers])
            self._sample(followers, step.logits[:, -1], step.marks)

    def _give_out(self, sequences: Sequence[ActiveSequence], aheads: Sequence[Ahead], emit: Emit) -> None:
        """Reads the tokens that were sampled, all at once where that works, and gives them out."""
        try:
            ids = _read(aheads)
        except Exception:
            ids = [None] * len(aheads)  # somebody's sampler failed late: each is read alone
        for sequence, ahead, known in zip(sequences, aheads, ids, strict=True):
            try:
                token = token_id(ahead.token) if known is None else known
                if not self.look_ahead or sequence.ahead is None:
                    sequence.pending = token
                if sequence.constraint is not None:
                    sequence.constraint.accept(token)
            except Exception as error:
                sequence.error = error
                continue
            if sequence.gate is not None:
                sequence.gate.step(1, 0, 0)
            sequence.last_round = None
            emit(sequence, token, ahead.logprobs, False)

    # Sampling.

    def _sample(self, sequences: Sequence[ActiveSequence], logits: mx.array, marks: Sequence[Mark]) -> None:
        """Samples one token for each sequence from logits (B, V), to be read later; errors stay with their row."""
        if all(_is_plain(s) for s in sequences):
            try:
                ids, logprobs = _greedy(logits)
                mx.async_eval(ids)
            except Exception:
                _undo(sequences, marks)
                raise
            # One node for all rows: a slice for each took as long as the rest of the step's Python at 32 rows.
            rows = mx.split(logprobs.reshape(-1), len(sequences))
            for i, (sequence, mark) in enumerate(zip(sequences, marks, strict=True)):
                sequence.ahead = Ahead(ids, i, rows[i], mark)
            return
        rows = self._processed(sequences, logits)
        for sequence, row, mark in zip(sequences, rows, marks, strict=True):
            if sequence.error is not None:
                continue
            try:
                token, logprobs = _draw(sequence, row)
                sequence.ahead = Ahead(token, 0, logprobs, mark)
            except Exception as error:
                sequence.error = error
        with contextlib.suppress(Exception):  # it belongs to one row, and comes up again when that row is read
            mx.async_eval([s.ahead.tokens for s in sequences if s.ahead is not None])

    def _processed(self, sequences: Sequence[ActiveSequence], logits: mx.array) -> list[mx.array]:
        """Rows (1, V) after processors and masks; the masks are made while the logits are computed."""
        rows = [logits] if len(sequences) == 1 else [logits[i : i + 1] for i in range(len(sequences))]
        masked = {}
        if any(s.constraint is not None for s in sequences):
            mx.async_eval(logits)
        for i, sequence in enumerate(sequences):
            try:
                rows[i] = self._process(sequence, rows[i])
                if sequence.constraint is not None:
                    masked[i] = sequence.constraint.mask()
            except Exception as error:
                sequence.error = error
        for width in {rows[i].shape[-1] for i in masked}:  # one, unless processors made some rows narrower
            group = [i for i in masked if rows[i].shape[-1] == width]
            chosen = mask_logits(mx.concatenate([rows[i] for i in group]), [masked[i] for i in group])
            for j, i in enumerate(group):
                rows[i] = chosen[j : j + 1]
        return rows

    def _process(self, sequence: ActiveSequence, row: mx.array) -> mx.array:
        request = sequence.request
        if request.logits_processors:
            tokens = self._history(sequence)
            for processor in request.logits_processors:
                row = processor(tokens, row)
        return row

    def _choose(self, sequence: ActiveSequence, row: mx.array, forced: int | None) -> tuple[int, mx.array]:
        """The token of one position, logits (1, V), read; `forced` is taken without a draw."""
        row = self._process(sequence, row)
        if forced is not None:
            token, logprobs = forced, kernels.log_softmax(row)[0]
        else:
            if sequence.constraint is not None:
                row = mask_logits(row, [sequence.constraint.mask()])
            drawn, logprobs = _draw(sequence, row)
            token = token_id(drawn)
        return token, logprobs

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


def _undo(sequences: Sequence[ActiveSequence], marks: Sequence[Mark]) -> None:
    for sequence, mark in zip(sequences, marks, strict=True):
        sequence.rewind.to(mark, 0)


def _is_plain(sequence: ActiveSequence) -> bool:
    """Whether the likeliest token is taken, whatever came before."""
    request = sequence.request
    return request.sampler is greedy_sampler and not request.logits_processors and sequence.constraint is None


def _may_look_ahead(sequence: ActiveSequence) -> bool:
    request = sequence.request
    left = None if request.max_tokens is None else request.max_tokens - len(sequence.generated)
    watched = request.logits_processors or sequence.constraint is not None or sequence.drafter is not None
    return not watched and (left is None or left > 1)


def _next_input(sequence: ActiveSequence, length: int) -> tuple[mx.array, dict[str, Any]]:
    """The next prompt tokens (1, L), and what the request gives in place of their embeddings."""
    start, embeddings = sequence.done, sequence.request.input_embeddings
    ids = mx.array(sequence.request.prompt[start : start + length], mx.int32)[None]
    return ids, {} if embeddings is None else {"input_embeddings": embeddings[None, start : start + length]}


def _inputs(proposals: Sequence[Proposal]) -> mx.array:
    """Token ids (B, L). What was not read yet stays on the device."""
    if any(isinstance(p.sequence.pending, mx.array) for p in proposals):
        return mx.stack([_as_array(p.sequence.pending) for p in proposals])
    return mx.array([[*p.sequence.backlog, p.sequence.pending, *p.tokens] for p in proposals], mx.uint32)


def _as_array(pending: mx.array | int | None) -> mx.array:
    assert pending is not None
    return pending if isinstance(pending, mx.array) else mx.array([pending], mx.uint32)


def _known(pending: mx.array | int | None) -> int:
    assert isinstance(pending, int)
    return pending


def _read(aheads: Sequence[Ahead]) -> list[int | None]:
    """All ids with one wait."""
    groups = {id(ahead.tokens): ahead.tokens for ahead in aheads}
    flat: list[int] = []
    if groups:
        arrays = list(groups.values())
        flat = (arrays[0] if len(arrays) == 1 else mx.concatenate(arrays)).tolist()  # type: ignore[assignment]
    starts, start = {}, 0
    for key, tokens in groups.items():
        starts[key] = start
        start += tokens.size
    return [flat[starts[id(ahead.tokens)] + ahead.row] for ahead in aheads]


def _greedy(logits: mx.array) -> tuple[mx.array, mx.array]:
    """The likeliest of each row, and log-probabilities (B, V), which cost nothing unless they are used."""
    return kernels.argmax(logits), kernels.log_softmax(logits)


def _draw(sequence: ActiveSequence, row: mx.array) -> tuple[mx.array, mx.array]:
    """A token (1,) from logits (1, V), not read, and log-probabilities (V,)."""
    sampler = sequence.request.sampler
    logprobs = kernels.log_softmax(row)
    takes_logits = getattr(sampler, "takes_logits", False)
    return sampler(row if takes_logits else logprobs).reshape(1), logprobs[0]
