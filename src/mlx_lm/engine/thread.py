"""The engine's owner thread: all MLX work of a server happens here, whoever asks.

Callers on other threads submit requests and get events through a callback; they never touch arrays. The thread does
not know about HTTP or text.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import MLXLMError
from ..kernels import native
from .engine import Engine, Event
from .request import Request, TokenEvent

__all__ = ["EngineThread", "Ticket"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Ticket:
    """A submitted request; `cancel` may be called from any thread, at any time."""

    def __init__(self, owner: "EngineThread"):
        self._owner = owner
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ends the request within one step; no more events come."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._owner._post(lambda: self._owner._cancel(self))


class EngineThread:
    """Runs engines on one thread of their own.

    Args:
        name: of the thread.
        check: verify the engines' books whenever they fall idle (for tests and debugging).
    """

    def __init__(self, name: str = "mlx-engine", *, check: bool = False):
        self._commands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._engines: list[Engine] = []
        self._tickets: dict[Ticket, tuple[Engine, int]] = {}
        self._handlers: dict[tuple[int, int], tuple[Ticket, Callable[[Event], object]]] = {}
        self._check = check
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    def call(self, function: Callable[[], _T]) -> "Future[_T]":
        """Runs `function` on the thread, between steps; its result or exception is in the future."""
        future: Future[_T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._post(command)
        return future

    def attach(self, engine: Engine) -> None:
        """Lets the thread step an engine that was made on it (call this through `call`)."""
        self._engines.append(engine)

    def detach(self, engine: Engine) -> None:
        """Ends an engine's requests and forgets it (call this through `call`)."""
        for uid in engine.live:
            engine.cancel(uid)
            self._deliver(engine, TokenEvent(uid, -1, error=MLXLMError("The model was unloaded.")))
        if engine in self._engines:
            self._engines.remove(engine)

    def submit(self, engine: Engine, request: Request, on_event: Callable[[Event], object]) -> Ticket:
        """Adds a request; `on_event` is called on the thread for each of its events, the last has an end or an error.

        An error at admission comes as an event too.
        """
        ticket = Ticket(self)

        def command() -> None:
            if ticket.cancelled:
                return
            try:
                uid = engine.add(request)
            except Exception as error:
                self._tell(on_event, TokenEvent(-1, -1, error=error))
                return
            self._tickets[ticket] = (engine, uid)
            self._handlers[id(engine), uid] = (ticket, on_event)

        self._post(command)
        return ticket

    def stop(self, timeout: float | None = None) -> None:
        """Ends the thread after the present step; requests that are live get no more events."""
        self._stopping = True
        self._post(lambda: None)
        self._thread.join(timeout)

    def _post(self, command: Callable[[], object]) -> None:
        self._commands.put(command)

    def _cancel(self, ticket: Ticket) -> None:
        place = self._tickets.pop(ticket, None)
        if place is not None:
            engine, uid = place
            self._handlers.pop((id(engine), uid), None)
            engine.cancel(uid)

    def _run(self) -> None:
        while not self._stopping:
            busy = [engine for engine in self._engines if not engine.idle]
            self._obey(wait=not busy)
            for engine in busy:
                self._step(engine)
            if self._check:
                for engine in self._engines:
                    engine.check()
        native.finish()

    def _obey(self, *, wait: bool) -> None:
        """Does what was posted; sleeps for the next command when there is nothing else to do."""
        try:
            command = self._commands.get(block=wait)
            while True:
                command()
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _step(self, engine: Engine) -> None:
        try:
            events = engine.step()
        except Exception as error:  # a fault of the engine itself: its requests end, the thread goes on
            _log.exception("The engine failed")
            events = []
            for uid in engine.live:
                engine.cancel(uid)
                events.append(TokenEvent(uid, -1, error=error))
        for event in events:
            self._deliver(engine, event)
        if not events and not engine.idle:
            # Nothing can be done now (memory is reserved by others): wait for a command or a little time.
            threading.Event().wait(0.005)

    def _deliver(self, engine: Engine, event: Event) -> None:
        place = (id(engine), event.uid)
        ticket, handler = self._handlers.get(place, (None, None))
        if ticket is None or handler is None:
            return
        if isinstance(event, TokenEvent) and (event.finish_reason is not None or event.error is not None):
            self._handlers.pop(place, None)
            self._tickets.pop(ticket, None)
        if not ticket.cancelled:
            self._tell(handler, event)

    def _tell(self, handler: Callable[[Event], object], event: Event) -> None:
        try:
            handler(event)
        except Exception:
            _log.exception("A request's listener failed")

    def __enter__(self) -> "EngineThread":
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
