"""One message while it is parsed: what was read becomes events, and calls that fail become text again.

Contract: `Output` collects events. White space between the answer and a call or a block of reasoning belongs to neither
and is dropped; white space inside the answer is kept. `Session.content` reads the answer up to a marker, with all
reasoning and calls in it.

This module does not know how any format writes a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlx_lm.tokenizer.parsers.events import (
    Event,
    ReasoningDelta,
    TextDelta,
    TextWasReasoning,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from mlx_lm.tokenizer.parsers.schema import ToolSchemas
from mlx_lm.tokenizer.parsers.source import SPACE, SPACES, Malformed, Markers, Reading, Source

__all__ = ["Output", "ReasoningStyle", "Session", "ToolFormat"]


@dataclass(frozen=True)
class ReasoningStyle:
    """The strings around reasoning. `also` are other spellings that models mix with these."""

    name: str
    start: str
    end: str
    also: tuple[tuple[str, str], ...] = ()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return ((self.start, self.end), *self.also)


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes tool calls.

    Attributes:
        name: as in `tool_parser_type` of tokenizer_config.json.
        start, end: the public markers; an empty end means that a call ends with the turn.
        read: reads calls after one of `starts` was read; raises Malformed.
        starts: all strings that begin a call or a list of calls.
        ignored: strings that only structure the message; they are dropped.
        bare: also reads calls that no marker announces, at the beginning of the answer.
        ends_reasoning: a start inside reasoning begins a call, because prose can't contain the marker.
        message: reads whole messages of formats with channels, in place of `Session.content`.
        new_id: the id of the n-th call of this name, where the model writes none.
    """

    name: str
    start: str
    end: str
    read: Callable[[Session, str], Reading[None]]
    starts: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    bare: Callable[[Session], Reading[None]] | None = None
    ends_reasoning: bool = False
    message: Callable[[Session], Reading[None]] | None = None
    new_id: Callable[[str, int], str] | None = None

    @property
    def all_starts(self) -> tuple[str, ...]:
        return self.starts or (self.start,)


@dataclass
class Output:
    """The events of one message. `atomic`: a call is held back until it is complete."""

    atomic: bool = False
    events: list[Event] = field(default_factory=list)
    calls: int = 0  # complete ones
    _held: list[Event] | None = None
    _started: int = 0
    _space: str = ""
    _wrote_text: bool = False
    _structure: bool = False  # a call or reasoning came since the last text
    _reasoning: str | None = None  # space held back inside a block of reasoning; None at its beginning
    _reasoned: bool = False

    def _add(self, event: Event) -> None:
        (self.events if self._held is None else self._held).append(event)

    def text(self, piece: str) -> None:
        body = piece.rstrip(SPACE)
        if not body:
            self._space += piece
            return
        space, self._space = self._space, piece[len(body) :]
        if self._structure and not self._wrote_text:
            space, body = "", (space + body).lstrip(SPACE)
        self._structure, self._wrote_text = False, True
        self._add(TextDelta(space + body))

    def begin_reasoning(self) -> None:
        self._structure, self._reasoning = True, None

    def reasoning(self, piece: str) -> None:
        body = piece.rstrip(SPACE)
        if self._reasoning is None:
            body = body.lstrip(SPACE)
            if not body:
                return
            space = "\n\n" if self._reasoned else ""
        elif not body:
            self._reasoning += piece
            return
        else:
            space = self._reasoning
        self._reasoned, self._reasoning = True, piece[len(piece.rstrip(SPACE)) :]
        self._add(ReasoningDelta(space + body))

    def stray_end(self, marker: str) -> None:
        """The end of reasoning that nothing began."""
        if self._reasoned or self._started:
            return self.text(marker)
        wrote, self._wrote_text, self._structure, self._space = self._wrote_text, False, True, ""
        if wrote:
            self._reasoned = True
            self._add(TextWasReasoning())

    def start(self, call_id: str, name: str) -> int:
        if self.atomic:
            self._held = []
        index, self._started = self._started, self._started + 1
        self._structure = True
        self._add(ToolCallStart(index, call_id, name))
        return index

    def arguments(self, index: int, fragment: str) -> None:
        if fragment:
            self._add(ToolCallArguments(index, fragment))

    def end(self, index: int) -> None:
        self.calls += 1
        self._add(ToolCallEnd(index))
        if self._held is not None:
            self.events += self._held
            self._held = None

    def fail(self, index: int, raw: str) -> None:
        """The call `index` was no call: its source is text."""
        self._structure = False
        if self._held is not None:
            self._held, self._started = None, index
            self.text(raw)
            return
        text = self._space + raw
        body = text.rstrip(SPACE)
        self._space, self._wrote_text = text[len(body) :], True
        self._add(ToolCallFailed(index, body))

    def finish(self) -> None:
        if self._space and not self._structure:
            self._add(TextDelta(self._space))
        self._space = ""

    def drain(self) -> list[Event]:
        """The events since the last call, neighbours of one kind joined."""
        events, self.events = self.events, []
        joined: list[Event] = []
        at = 0
        while at < len(events):
            first = events[at]
            end = at + 1
            while end < len(events) and _continues(first, events[end]):
                end += 1
            joined.append(_join(events[at:end]))
            at = end
        return joined


def _continues(first: Event, event: Event) -> bool:
    if isinstance(first, ToolCallArguments):
        return isinstance(event, ToolCallArguments) and event.index == first.index
    return isinstance(first, TextDelta | ReasoningDelta) and type(event) is type(first)


def _join(events: Sequence[Event]) -> Event:
    first = events[0]
    if isinstance(first, ToolCallArguments):
        return ToolCallArguments(first.index, "".join(e.json_fragment for e in events))  # type: ignore[union-attr]
    if isinstance(first, TextDelta | ReasoningDelta):
        return type(first)("".join(e.text for e in events))  # type: ignore[union-attr]
    return first


class Session:
    """The state of one message: its source, its events, its open call."""

    def __init__(
        self,
        output: Output,
        style: ReasoningStyle | None,
        tools: ToolFormat | None,
        schemas: ToolSchemas,
        new_id: Callable[[str, int], str],
    ) -> None:
        self.source = Source()
        self.output = output
        self.style = style
        self.tools = tools
        self.schemas = schemas
        self._new_id = new_id
        self._open: int | None = None
        self._ends = dict(style.pairs) if style else {}
        self._calls_started = 0
        self._ids: set[str] = set()

    # -- calls, for the readers of formats

    @property
    def in_call(self) -> bool:
        """Whether a call has begun and has not ended."""
        return self._open is not None

    def start_call(self, name: str, call_id: str | None = None) -> None:
        """Begins the call. Malformed for a name that can't be one, such as an empty one."""
        if not name or len(name) > 256 or any(c in name for c in "\n\r<>{}\"'"):
            raise Malformed("not a name")
        if not call_id or call_id in self._ids:
            call_id = self._new_id(name, self._calls_started)
        self._ids.add(call_id)
        self._calls_started += 1
        self._open = self.output.start(call_id, name)

    def arguments(self, fragment: str) -> None:
        assert self._open is not None
        self.output.arguments(self._open, fragment)

    def end_call(self) -> None:
        assert self._open is not None
        self.output.end(self._open)
        self._open = None
        self.source.record()

    # -- the message

    def attempt(
        self,
        read: Reading[None],
        end: str,
        first: str = "",
        stops: tuple[str, ...] = (),
        as_text: Callable[[str], None] | None = None,
    ) -> Reading[str | None]:
        """Runs a reader of calls. What it can't read becomes text, and so does the rest of a call that had begun.

        `stops` end that rest too; the one that did is returned.
        """
        source = self.source
        source.record(first)
        try:
            yield from read
            source.recorded()
        except Malformed:
            raw, index, self._open = source.recorded(), self._open, None
            if index is None:
                (as_text or self.output.text)(raw)
                return None
            self.output.fail(index, raw)
            markers = Markers((*((end,) if end else ()), *stops))
            found = yield from source.until(markers, self.output.text)
            if found is not None and found in stops:
                return found
            self.output.text(found or "")
        return None

    def reason(self, end: str) -> Reading[None]:
        """Reads reasoning up to its end marker."""
        output, tools = self.output, self.tools
        output.begin_reasoning()
        starts = tools.all_starts if tools and tools.ends_reasoning else ()
        markers = Markers((end, *starts))
        while True:
            found = yield from self.source.until(markers, output.reasoning)
            if found is None or found == end or tools is None:
                return
            calls = output.calls
            yield from self.attempt(tools.read(self, found), tools.end, found, as_text=output.reasoning)
            if output.calls > calls:
                return

    def content(self, stops: tuple[str, ...] = ()) -> Reading[str | None]:
        """Reads the answer up to one of `stops`, which is returned; None at the end of the text."""
        output, tools = self.output, self.tools
        starts = tools.all_starts if tools else ()
        ignored = tools.ignored if tools else ()
        ends = {} if tools and tools.message else self._ends  # formats with channels read reasoning themselves
        markers = Markers((*stops, *starts, *ignored, *ends, *ends.values()))
        while True:
            found = yield from self.source.until(markers, output.text)
            if found is None or found in stops:
                return found
            if tools is not None and found in starts:
                stop = yield from self.attempt(tools.read(self, found), tools.end, found, stops)
                if stop is not None:
                    return stop
            elif found in ignored:
                continue
            elif found in ends:
                yield from self.reason(ends[found])
            else:
                output.stray_end(found)

    def message(self, in_reasoning: bool) -> Reading[None]:
        """Reads the whole message."""
        tools = self.tools
        if in_reasoning and self.style is not None:
            yield from self.source.skip_space()
            if (yield from self.source.comes(self.style.start)):  # the model repeats what the prompt had opened
                self.source.take(len(self.style.start))
            yield from self.reason(self.style.end)
        if tools is not None and tools.message is not None:
            yield from tools.message(self)
            return
        if tools is not None and tools.bare is not None:
            yield from self._bare(tools.bare)
        yield from self.content()

    def _bare(self, read: Callable[[Session], Reading[None]]) -> Reading[None]:
        """Calls without a marker, where the answer begins: at the start, or after reasoning."""
        source = self.source
        for start, end in self._ends.items():
            self.output.text((yield from source.run(SPACES)))
            if (yield from source.accept(start)):
                yield from self.reason(end)
        self.output.text((yield from source.run(SPACES)))
        assert self.tools is not None
        yield from self.attempt(read(self), "")
