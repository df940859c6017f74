"""The one engine: takes requests, steps through them, gives an event for each token.

`step()` does all MLX work on the thread that calls it. Failures end one request, never the engine: the exception is
in that request's last event. This module does not know about text, files or HTTP.
"""

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict

import mlx.core as mx
import mlx.nn as nn

from ..errors import ContextLengthError, DeadlineError, OverloadedError, RequestError
from ..state import State
from ..types import FinishReason
from .live import Live, Reservations
from .memory import MemoryWatch
from .model_states import check_states, context_length, new_states
from .pace import Pace, Work
from .prefix import BLOCK_TOKENS, PrefixCache
from .prefix.blocks import needs_checkpoints
from .request import PrefillProgress, Request, TokenEvent
from .reuse import PrefixReuse
from .runner import ActiveSequence, Runner
from .scheduler import Policy, Scheduler
from .speculate.gate import Gate
from .speculate.make import check_speculation, make_drafter
from .stats import EngineCounters, EngineStats
from .text import StopSequences

__all__ = ["Engine", "Event"]

_log = logging.getLogger(__name__)

Event = TokenEvent | PrefillProgress

_LONGEST_STEP = 512  # tokens that a decode step may feed for one sequence
_LIKELY = 512  # tokens of an answer without a limit, to make room for
_PARTS = 8  # steps that a piece of a prompt takes beside running sequences
_LEAST_STEP = 16  # and whatever else runs: enough for any guess


class Engine:
    """Continues many sequences with one model.

    Args:
        model: called as `model(ids (B, L), states)`; the families of this package, or any model of that form.
        max_batch: sequences that decode together.
        prefill_step_size: most prompt tokens in one step.
        policy: how steps are shared between prompts and running sequences.
        memory_budget: bytes that states may take in all; None for no limit.
        max_queue: prompts that may wait; None for no limit.
        prefix_cache: what is computed once is kept here and used again.
        model_key: names the weights, adapter and tokenizer in the prefix cache's keys; None for this model object.
        look_ahead: see `Runner`.
        memory_watch: warns when much memory is in use; None is silent.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_batch: int = 32,
        prefill_step_size: int = 2048,
        policy: Policy = "fair",
        memory_budget: int | None = None,
        max_queue: int | None = None,
        prefix_cache: PrefixCache | None = None,
        model_key: str | None = None,
        look_ahead: bool | None = None,
        memory_watch: MemoryWatch | None = None,
    ):
        if prefill_step_size < 1:
            raise RequestError(f"prefill_step_size must be at least 1, not {prefill_step_size}.")
        self.model = model
        self.counters = EngineCounters()
        self.max_queue = max_queue
        self._runner = Runner(model, look_ahead=look_ahead)
        self._pace = Pace(parts=_PARTS if self._runner.in_parts else 1)
        self._scheduler = Scheduler(
            max_batch=max_batch,
            prefill_step=prefill_step_size,
            policy=policy,
            pace=self._pace,
            may_start=self._may_start,
        )
        self._limit = context_length(model)
        self._reservations = Reservations(model, memory_budget, self._limit)
        self._memory = memory_watch
        self._reuse = None if prefix_cache is None else PrefixReuse(prefix_cache, model, model_key)
        self._live: dict[int, Live] = {}
        self._latest: dict[int, Live] = {}  # what ended in the latest step, and gives its states back
        self._finished: dict[int, tuple[list[State], list[int]]] = {}
        self._ended = {"finished": 0, "failed": 0, "cancelled": 0}
        self._uids = itertools.count()

    # Requests.

    def add(self, request: Request) -> int:
        """Admits a request and returns its id.

        Raises:
            ContextLengthError: the prompt does not fit the model's context.
            MemoryBudgetError: its states can never fit the memory budget.
            OverloadedError: too many prompts wait already.
            CacheMismatchError: the given states are not of this model.
            UnsupportedError: this model cannot have that speculation.
        """
        given = request.states
        if given is not None:
            check_states(self.model, given)
        held = 0 if given is None else max((state.offset for state in given), default=0)
        if self._limit is not None and held + len(request.prompt) > self._limit:
            raise ContextLengthError(held + len(request.prompt), self._limit)
        check_speculation(self.model, request.speculation)
        self._reservations.require(self._reservations.bytes(self._reservations.first_tokens(held, request), request))
        if self.max_queue is not None and self._scheduler.queued >= self.max_queue:
            raise OverloadedError(self._scheduler.queued, self._wait_seconds())
        uid = next(self._uids)
        constraint = None if request.constraint is None else request.constraint.copy()
        sequence = ActiveSequence(uid, request, list(given) if given is not None else [], constraint)
        self._live[uid] = Live(sequence, StopSequences(request.stop_sequences).matcher(), held)
        self._scheduler.add(uid, len(request.prompt), request.priority)
        return uid

    def cancel(self, uid: int, *, consumed: int | None = None) -> None:
        """Ends a request at once. Unknown ids are ignored.

        `consumed` is how many tokens the caller has taken: a step may have given out more, which are then taken back,
        so that the states hold all tokens but the last consumed. This also works just after the request's end.
        """
        live = self._live.get(uid) or self._latest.get(uid)
        if live is not None and consumed is not None:
            surplus = len(live.sequence.generated) - consumed
            if surplus > 0:
                self._take_back(live, surplus)
        if uid in self._live:
            self._end(uid, "cancelled")

    def take(self, uid: int) -> tuple[list[State], list[int]] | None:
        """Once, for a request with `keep_states`: its states and all its tokens, the last not yet in the states."""
        return self._finished.pop(uid, None)

    @property
    def live(self) -> tuple[int, ...]:
        return tuple(self._live)

    @property
    def idle(self) -> bool:
        return not self._live

    # Work.

    def step(self) -> list[Event]:
        """Does one planned step and returns what happened; nothing when there is nothing to do."""
        self._latest.clear()
        if self._memory is not None:
            self._memory.step()
        events: list[Event] = self._expire()
        plan = self._scheduler.plan()
        if plan is None:
            return events
        work = None
        if plan.prefill is not None:
            paced = bool(plan.decode) and self._scheduler.policy == "fair"
            found, work = self._prefill(plan.prefill, plan.length, paced=paced)
            events += found
        decode = [uid for uid in plan.decode if uid in self._live]
        start = time.perf_counter()
        if plan.prefill is not None and plan.prefill in self._scheduler.running:
            decode.append(plan.prefill)  # its first token was sampled with the prompt
        if decode:
            events += self._decode(decode)
        seconds = time.perf_counter() - start
        if plan.prefill is None:
            self._pace.decoded(len(decode), seconds)
        elif work is not None:
            self._pace.worked(work, seconds)
        return events

    def run(self, uid: int) -> Iterator[TokenEvent]:
        """Steps until `uid` ends, giving its tokens; raises its error. For one request at a time."""
        consumed = 0
        try:
            while True:
                for event in self.step():
                    if isinstance(event, PrefillProgress) or event.uid != uid:
                        continue
                    if event.error is not None:
                        raise event.error
                    consumed += 1
                    yield event
                    if event.finish_reason is not None:
                        return
        finally:
            self.cancel(uid, consumed=consumed)

    # Reports.

    def stats(self) -> EngineStats:
        """Where the engine stands."""
        cache = None if self._reuse is None else self._reuse.cache
        started = [live for live in self._live.values() if live.started]
        running = len(self._scheduler.running)
        return EngineStats(
            queued=self._scheduler.queued,
            prefilling=len(self._live) - running - self._scheduler.queued,
            running=running,
            **self._ended,
            reserved_bytes=self._reservations.reserved,
            predicted_bytes=sum(self._reservations.bytes(live.stored, live.request) for live in started),
            state_bytes=sum(live.sequence.nbytes for live in started),
            budget_bytes=self._reservations.budget,
            cached_blocks=0 if cache is None else len(cache.index),
            cached_bytes=0 if cache is None else cache.index.nbytes,
            evicted_blocks=0 if cache is None else cache.index.evicted,
            prefix_tokens=0 if cache is None else cache.stats.tokens,
            reused_tokens=0 if cache is None else cache.stats.reused_tokens,
            reused_from_disk_tokens=0 if cache is None else cache.stats.disk_tokens,
            drafted_tokens=self._runner.counters.drafted,
            accepted_tokens=self._runner.counters.accepted,
            forced_tokens=self._runner.counters.forced,
            counters=asdict(self.counters),
        )

    def check(self) -> None:
        """Raises AssertionError when the engine's books do not balance."""
        self._scheduler.check()
        listed = {*self._scheduler.waiting, *self._scheduler.running}
        assert listed == set(self._live), "scheduler and engine disagree about what is live"
        self._reservations.check([live.reserved for live in self._live.values()])
        if self._reuse is not None:
            self._reuse.cache.check()

    # Limits.

    def _may_start(self, uid: int) -> bool:
        return self._reservations.start(self._live[uid])

    def _wait_seconds(self) -> float:
        """A guess of when the queue has moved: the decode time of one average answer, within 1 and 60 s."""
        ended = max(sum(self._ended.values()), 1)
        return min(max((self.counters.decode_time + self.counters.prompt_time) / ended, 1.0), 60.0)

    def _expire(self) -> list[Event]:
        now = time.monotonic()
        late = [
            uid
            for uid, live in self._live.items()
            if live.sequence.request.deadline is not None and live.sequence.request.deadline <= now
        ]
        return [self._fail(uid, DeadlineError("The request was not done by its deadline.")) for uid in late]

    # Prompts.

    def _prefill(self, uid: int, length: int, *, paced: bool) -> tuple[list[Event], Work | None]:
        """Computes a piece of a prompt, or as many of its layers as the pace allows; gives that work when `paced`."""
        live = self._live[uid]
        sequence, request = live.sequence, live.sequence.request
        total, layers = len(request.prompt), 1
        start = time.perf_counter()
        try:
            if not live.started:
                length = self._start(live, length)
            if sequence.piece is None:
                length = self._piece(live, length)
                if paced and self._runner.in_parts:
                    self._runner.begin(sequence, length)
            piece = sequence.piece
            if piece is None:
                self._runner.prefill(sequence, length)
            else:
                length = piece.length
                count, layers = piece.work.count, piece.work.left
                if paced:
                    layers = min(layers, self._pace.layers(length, count, count - layers))
                self._runner.go_on(sequence, layers)
            done = sequence.piece is None
            if sequence.ahead is not None:
                mx.eval(sequence.ahead.token)
            if done and request.on_progress is not None:
                request.on_progress(sequence.done, total)
        except Exception as error:
            return [self._fail(uid, error)], None
        seconds = time.perf_counter() - start
        self.counters.prompt_time += seconds
        work = Work(length if done else 0, layers, seconds) if paced else None
        if not done:
            return [], work
        if piece is None and not paced:
            self._pace.prefilled(length, seconds)
        self.counters.prompt_tokens += length
        self._scheduler.prefilled(uid, length)
        self._keep_prompt(live)
        return [PrefillProgress(uid, sequence.done, total, live.cached)], work

    def _start(self, live: Live, length: int) -> int:
        """Makes the states and takes from the prefix cache what it knows; the piece's length afterwards."""
        sequence, request = live.sequence, live.sequence.request
        live.started = True
        if request.states is None:
            sequence.states = new_states(self.model, request.kv)
        for state in sequence.states:
            state.expect(state.offset + len(request.prompt) + (request.max_tokens or _LIKELY))
        if self._keeps(live) and self._reuse is not None:
            live.cached = self._reuse.begin(request, sequence.states)
        if request.speculation is not None:
            tokens = request.history + request.prompt
            sequence.drafter = make_drafter(self.model, request.speculation, tokens, len(request.history), request.kv)
            sequence.gate = Gate(request.speculation.probe, len(tokens))
        if request.on_progress is not None:
            request.on_progress(live.cached, len(request.prompt))
        if live.cached:
            sequence.done = live.cached
            self._scheduler.prefilled(sequence.uid, live.cached)
        return min(length, sequence.remaining)

    def _piece(self, live: Live, length: int) -> int:
        """Ends a piece where packing begins, and at the prompt's last whole block where a checkpoint is to be taken."""
        sequence = live.sequence
        exact = sequence.rewind.exact_room()
        length = length if exact is None else min(length, exact)
        if not self._keeps(live) or not needs_checkpoints(sequence.states):
            return length
        end = (len(sequence.request.prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        return end - sequence.done if sequence.done < end < sequence.done + length else length

    def _keeps(self, live: Live) -> bool:
        request = live.sequence.request
        return self._reuse is not None and request.states is None and request.input_embeddings is None

    def _keep_prompt(self, live: Live) -> None:
        """Stores a prompt when it is done, and checkpoints on the way."""
        sequence = live.sequence
        if not self._keeps(live) or self._reuse is None:
            return
        if sequence.remaining == 0 or (sequence.done % BLOCK_TOKENS == 0 and needs_checkpoints(sequence.states)):
            self._reuse.keep(sequence.request, sequence.request.prompt[: sequence.done], sequence.states)

    # Tokens.

    def _decode(self, uids: list[int]) -> list[Event]:
        start = time.perf_counter()
        lives = [self._live[uid] for uid in uids]
        for live in lives:
            if live.sequence.drafter is not None or live.sequence.constraint is not None:
                live.sequence.room = self._room(live)
        events: list[Event] = []
        ended: set[int] = set()

        def emit(sequence: ActiveSequence, token: int, logprobs: mx.array, guessed: bool) -> bool:
            sequence.append(token)
            reason = self._finish_reason(self._live[sequence.uid], token)
            events.append(TokenEvent(sequence.uid, token, logprobs, reason, guessed))
            if reason is not None:
                ended.add(sequence.uid)
            return reason is None

        try:
            self._runner.decode([live.sequence for live in lives], emit)
        except Exception as error:
            if len(uids) == 1:
                return [self._fail(uids[0], error)]
            return self._decode_apart(uids)
        self.counters.generation_tokens += len(events)
        self.counters.generation_steps += 1
        self.counters.decode_time += time.perf_counter() - start
        for live in lives:
            error = live.sequence.error
            if live.sequence.uid in ended:
                self._end(live.sequence.uid, "finished" if error is None else "failed")
            elif error is not None:
                events.append(self._fail(live.sequence.uid, error))
            elif self._reuse is not None and self._keeps(live) and (live.tokens - 1) % BLOCK_TOKENS == 0:
                self._keep_on_the_way(live)
        return events

    def _decode_apart(self, uids: list[int]) -> list[Event]:
        """After a failed batch step: each sequence alone, so that only the guilty one ends."""
        return [event for uid in uids for event in self._decode([uid])]

    def _room(self, live: Live) -> int:
        """Most tokens that a sequence's next step may give out, so that it passes no limit and no checkpoint.

        A long run of forced tokens is a piece of a prompt to the other sequences, and sized like one.
        """
        request, sequence = live.sequence.request, live.sequence
        alone = len(self._scheduler.running) == 1
        rooms = [_LONGEST_STEP if alone else max(_LEAST_STEP, int(self._pace.size or 0) // self._pace.parts)]
        if request.max_tokens is not None:
            rooms.append(request.max_tokens - len(sequence.generated))
        if self._limit is not None:
            rooms.append(self._limit - live.tokens)
        if self._reservations.budget is not None:
            rooms.append(live.reserved_tokens - live.tokens)
        if self._keeps(live) and needs_checkpoints(sequence.states):
            rooms.append(BLOCK_TOKENS - (live.tokens - 1) % BLOCK_TOKENS)
        return max(min(rooms), 1)

    def _finish_reason(self, live: Live, token: int) -> FinishReason | None:
        request, sequence = live.sequence.request, live.sequence
        if token in request.stop_tokens or live.stops.advance(token):
            return "stop"
        if sequence.constraint is not None and sequence.constraint.done:
            return "stop"
        if self._limit is not None and live.tokens >= self._limit:
            return "length"
        if request.max_tokens is not None and len(sequence.generated) >= request.max_tokens:
            return "length"
        return None if self._reservations.go_on(live) else "length"

    def _keep_on_the_way(self, live: Live) -> None:
        """States that forget are checkpointed whenever they stand at a block's end."""
        sequence = live.sequence
        if sequence.ahead is None and needs_checkpoints(sequence.states) and self._reuse is not None:
            self._runner.settle(sequence)
            self._reuse.keep(sequence.request, self._seen(live), sequence.states)

    def _seen(self, live: Live) -> tuple[int, ...]:
        request = live.sequence.request
        return (*request.prompt[: live.sequence.done], *live.sequence.generated)

    def _fail(self, uid: int, error: Exception) -> TokenEvent:
        self._end(uid, "failed")
        return TokenEvent(uid, -1, error=error)

    def _end(self, uid: int, how: str) -> None:
        live = self._live.pop(uid)
        self._scheduler.remove(uid)
        self._reservations.release(live.reserved)
        self._ended[how] += 1
        if how == "failed":  # its states may be anything
            return
        sequence, request = live.sequence, live.request
        if live.started and self._reuse is not None and self._keeps(live) and self._settled(live):
            self._reuse.keep(request, self._seen(live), sequence.states)
        if sequence.last_round is not None and live.given_back:
            self._latest[uid] = live
        self._hand_back(live)

    def _take_back(self, live: Live, count: int) -> None:
        """Takes back tokens of the latest step that the caller has not consumed."""
        self._runner.take_back(live.sequence, count)
        if live.sequence.uid not in self._live:
            self._hand_back(live)

    def _hand_back(self, live: Live) -> None:
        """Leaves the states as the caller may have them."""
        sequence, request = live.sequence, live.sequence.request
        if live.given_back and self._settled(live) and request.keep_states:
            self._finished[sequence.uid] = (sequence.states, [*request.history, *self._seen(live)])

    def _settled(self, live: Live) -> bool:
        """Brings a request's states to its last token but one; False when that failed, and they may be anything."""
        try:
            self._runner.settle(live.sequence)
            if live.sequence.drafter is not None and live.given_back:
                live.sequence.drafter.settle()
        except Exception:  # the answer is out already
            _log.exception("The states of a request that has ended could not be brought to its end")
            return False
        return True
