"""The owner thread: many callers, one thread of MLX work, and nothing left behind."""

import queue
import random
import threading

import mlx.core as mx
import pytest
from tiny_models import plain_greedy, prompts, tiny

from mlx_lm.engine import Engine, Request
from mlx_lm.engine.request import PrefillProgress
from mlx_lm.engine.thread import EngineThread
from mlx_lm.errors import ContextLengthError, OverloadedError


@pytest.fixture
def running():
    with EngineThread(check=True) as thread:

        def make():
            model, vocab = tiny("full")
            engine = Engine(model, max_batch=4, max_queue=1000)
            thread.attach(engine)
            return model, vocab, engine

        yield thread, *thread.call(make).result(60)


def collect(thread, engine, request):
    events = queue.Queue()
    ticket = thread.submit(engine, request, events.put)
    return ticket, events


def finish(events):
    out = []
    while True:
        event = events.get(timeout=60)
        if isinstance(event, PrefillProgress):
            continue
        if event.error is not None:
            raise event.error
        out.append(event.token)
        if event.finish_reason is not None:
            return out


def test_many_callers_get_their_own_answers(running):
    thread, model, vocab, engine = running
    wanted = prompts(vocab, [random.Random(i).randrange(1, 20) for i in range(12)], seed=5)
    expected = thread.call(lambda: [plain_greedy(model, p, 6) for p in wanted]).result(60)
    results = [None] * len(wanted)

    def caller(i):
        _, events = collect(thread, engine, Request(prompt=tuple(wanted[i]), max_tokens=6))
        results[i] = finish(events)

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(len(wanted))]
    for c in callers:
        c.start()
    for c in callers:
        c.join(60)
    assert results == expected


def test_aborts_leave_nothing(running):
    thread, _, vocab, engine = running
    chance = random.Random(0)
    tickets = []
    for prompt in prompts(vocab, [chance.randrange(1, 30) for _ in range(200)], seed=1):
        ticket, _ = collect(thread, engine, Request(prompt=tuple(prompt), max_tokens=chance.randrange(1, 8)))
        tickets.append(ticket)
        if chance.random() < 0.7:
            chance.choice(tickets).cancel()
    for ticket in tickets:
        ticket.cancel()
    thread.call(lambda: None).result(60)
    stats = thread.call(engine.stats).result(60)
    assert engine.idle and stats.running == stats.queued == 0 and stats.reserved_bytes == 0
    assert not thread._tickets and not thread._handlers


def test_errors_at_admission_come_as_events(running):
    thread, model, _, engine = running
    _, events = collect(thread, engine, Request(prompt=(1,) * (model.context_length + 1)))
    with pytest.raises(ContextLengthError):
        finish(events)
    engine.max_queue = 0
    _, events = collect(thread, engine, Request(prompt=(1, 2)))
    with pytest.raises(OverloadedError):
        finish(events)


def test_a_listener_that_fails_does_not_stop_the_thread(running):
    thread, model, vocab, engine = running
    thread.submit(engine, Request(prompt=(1, 2), max_tokens=3), lambda _: 1 / 0)
    (prompt,) = prompts(vocab, [5])
    _, events = collect(thread, engine, Request(prompt=tuple(prompt), max_tokens=4))
    assert finish(events) == thread.call(lambda: plain_greedy(model, prompt, 4)).result(60)


def test_all_array_work_is_on_the_thread(running):
    thread, _, _vocab, engine = running
    seen = set()

    def spy(_, logits):
        seen.add(threading.current_thread().name)
        return logits

    _, events = collect(thread, engine, Request(prompt=(1, 2, 3), max_tokens=3, logits_processors=(spy,)))
    finish(events)
    assert seen == {"mlx-engine"}


def test_models_can_be_used_on_another_thread_than_they_were_loaded_on():
    model, vocab = tiny("full")
    (prompt,) = prompts(vocab, [5])
    expected = plain_greedy(model, prompt, 3)
    with EngineThread() as thread:
        assert thread.call(lambda: plain_greedy(model, prompt, 3)).result(60) == expected
    assert mx.default_device() is not None
