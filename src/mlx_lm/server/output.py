"""From the tokens of an answer to its events: text, reasoning, tool calls, stop strings, log-probabilities.

Contract: `OutputReader.add` takes one token and gives the events that it settles; `finish` gives the rest. The events,
joined, do not depend on how the text was cut. A malformed tool call becomes visible text, never a vanished call. Pure
Python: no MLX, no engine, no HTTP.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.text import TextStream
from ..tokenizer.detokenize import byte_alphabet
from ..tokenizer.parsers import Event as ParserEvent
from ..tokenizer.parsers import (
    ReasoningDelta,
    StreamParser,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from .work import EndReason, Reasoning, Text, TokenLogprob, ToolArguments, ToolEnd, ToolStart, TopLogprob, WorkEvent

__all__ = ["OutputReader", "TokenNote", "token_logprob"]


@dataclass(frozen=True)
class TokenNote:
    """A token's log-probability and the likeliest tokens in falling order, as numbers."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class _Piece:
    """Gives a `TextStream` text that was decoded already, so that one matcher of stop strings serves both."""

    def __init__(self) -> None:
        self.last_segment = ""

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None:
        self.last_segment = ""


class OutputReader:
    """Reads one answer.

    Args:
        tokenizer: a `TokenizerWrapper`.
        parser: of reasoning and tool calls; None leaves the text as it is.
        stop: strings that end the answer. They are looked for in the answer's text, not in reasoning or arguments.
        in_reasoning: the answer begins inside reasoning.
        one_call: the answer ends with its first complete call.
        offset: length of the text before the answer, where log-probabilities count from.
        at: what is called before a stage's work, for tests that let one fail.
    """

    def __init__(
        self,
        tokenizer: Any,
        parser: StreamParser | None,
        stop: Sequence[str] = (),
        *,
        in_reasoning: bool = False,
        one_call: bool = False,
        offset: int = 0,
        at: Callable[[str], object] | None = None,
    ) -> None:
        self.reasoning_tokens = 0
        self.completion_tokens = 0
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer
        self._parser = parser
        self._piece = _Piece()
        self._content = TextStream(self._piece, stop)
        self._inside = in_reasoning
        self._one_call = one_call
        self._called = False  # the one call that is allowed has come
        self._notes: list[TokenLogprob] = []
        self._length = offset  # of the text so far, as the tokens wrote it
        self._shown = offset  # of the text and reasoning in events
        self._at = at or (lambda stage: None)

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer."""
        return self._content.stopped

    @property
    def ended(self) -> bool:
        """Nothing can follow: a stop string came, or the only call that is allowed."""
        return self._called or self.stopped is not None

    @property
    def has_calls(self) -> bool:
        return self._parser is not None and self._parser.has_calls

    def add(self, token: int, note: TokenNote | None = None, *, ends: bool = False) -> list[WorkEvent]:
        """The events of the next token; `ends`: it is an end token, which counts but has no text."""
        self.completion_tokens += 1
        if ends or self.ended:
            return []
        self._at("detokenize")
        self._detokenizer.add_token(token)
        segment = self._detokenizer.last_segment
        if note is not None:
            self._notes.append(self._logprob(token, note))
        self._length += len(segment)
        return self._read(segment, self._feed(segment))

    def finish(self, *, cut: bool = False) -> list[WorkEvent]:
        """What was held back, when no more tokens come. `cut`: a limit ended the answer, not the model."""
        events: list[WorkEvent] = []
        if not self.ended:
            self._detokenizer.finalize()
            segment = self._detokenizer.last_segment
            self._at("parse")
            parsed = self._feed(segment)
            if self._parser is not None:
                parsed = [*parsed, *self._parser.finish(cut=cut)]
            events = self._read(segment, parsed, count=False)
        if not self.ended:
            events += self._text(self._content.finish())
        if self._notes:
            events.append(Text("", self._take_notes()))
        return events

    def reason(self, engine_reason: str, *, context_full: bool) -> EndReason:
        """Why the answer ended, in the words of `Finished`."""
        if self.stopped is not None:
            return "stop_sequence"
        if self._called:
            return "tool_calls"
        if engine_reason == "length":
            return "context" if context_full else "length"
        return "tool_calls" if self.has_calls else "stop"

    def _feed(self, segment: str) -> list[ParserEvent]:
        if self._parser is None:
            return [TextDelta(segment)] if segment else []
        self._at("parse")
        return self._parser.feed(segment)

    def _read(self, segment: str, parsed: Sequence[ParserEvent], *, count: bool = True) -> list[WorkEvent]:
        """Parser events as ours, up to a stop string."""
        before, events = self._inside, []
        for event in parsed:
            if self.ended:
                break
            self._inside = isinstance(event, ReasoningDelta)
            events += self._translate(event)
        if count and before and (self._inside or not parsed):
            self.reasoning_tokens += 1
        return self._annotate(events)

    def _translate(self, event: ParserEvent) -> list[WorkEvent]:
        match event:
            case TextDelta(text):
                return self._text(self._stop(text))
            case ReasoningDelta(text):
                return [Reasoning(text)] if text else []
            case ToolCallStart(index, id, name):
                # What may be the beginning of a stop string cannot go on behind a call.
                return [*self._text(self._content.finish()), ToolStart(index, id, name)]
            case ToolCallArguments(index, fragment):
                return [ToolArguments(index, fragment)]
            case ToolCallEnd(index):
                self._called = self._one_call
                return [ToolEnd(index)]
            case ToolCallFailed(index, text):
                return [ToolEnd(index, failed=True), *self._text(self._stop(text))]
            case _:  # TextWasReasoning: what was sent cannot be taken back, and it is all there
                return []

    def _stop(self, text: str) -> str:
        self._piece.last_segment = text
        return self._content.add(0)

    def _text(self, text: str) -> list[WorkEvent]:
        return [Text(text)] if text else []

    def _annotate(self, events: list[WorkEvent]) -> list[WorkEvent]:
        """Puts the log-probabilities that wait on the first event that can carry them."""
        self._shown += sum(len(event.text) for event in events if isinstance(event, Text | Reasoning))
        if self.stopped is not None:  # tokens of the stop string are not part of the answer
            self._notes = [note for note in self._notes if note.offset < self._shown]
        if self._notes:
            for i, event in enumerate(events):
                if isinstance(event, Text | Reasoning):
                    events[i] = type(event)(event.text, self._take_notes())
                    break
        return events

    def _take_notes(self) -> tuple[TokenLogprob, ...]:
        notes, self._notes = tuple(self._notes), []
        return notes

    def _logprob(self, token: int, note: TokenNote) -> TokenLogprob:
        return token_logprob(self._tokenizer, token, note, self._length)


def token_logprob(tokenizer: Any, token: int, note: TokenNote | None, offset: int) -> TokenLogprob:
    """A token's entry; without a note it has no log-probability (the first token of a prompt)."""
    text, data = _token_bytes(tokenizer, token)
    if note is None:
        return TokenLogprob(token, text, data, None, (), offset)
    top = tuple(TopLogprob(i, *_token_bytes(tokenizer, i), logprob) for i, logprob in note.top)
    return TokenLogprob(token, text, data, note.logprob, top, offset)


def _token_bytes(tokenizer: Any, token: int) -> tuple[str, bytes]:
    """A token's text by itself and its bytes; half a character's bytes where its text cannot show them."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text, text.encode("utf-8", errors="replace")
    piece = tokenizer.convert_ids_to_tokens(token)
    found = _byte_level(piece) if isinstance(piece, str) else None
    return text, text.encode() if found is None else found


def _byte_level(piece: str) -> bytes | None:
    """The bytes behind a token of a byte-level vocabulary or a byte token <0xNN>; None when it is neither."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    values = _byte_values()
    return bytes(values[char] for char in piece) if all(char in values for char in piece) else None


@functools.cache
def _byte_values() -> dict[str, int]:
    return {char: value for value, char in enumerate(byte_alphabet())}
