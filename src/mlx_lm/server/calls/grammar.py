"""Tool calls as a grammar: the text that a model writes to call the tools of a request, in its own format.

Contract: `call_grammar` gives a grammar in Lark's syntax. With a call required it is one call; with a free choice
it is any text, in which every call keeps to its tool's schema. What a format cannot be held to is refused by name.
Names of tools come from strangers and only ever appear as quoted text.

This module does not know formats; `forms` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import GrammarError, RequestError, UnsupportedError
from ...grammar import prepare_schema
from ...tokenizer.parsers import ToolFormat
from ..work import OutputFormat, Tool, Work
from .forms import ARGUMENTS, FORMS, LINE, NUMBER, REFUSED, Form, Part
from .members import arguments_schema
from .rules import ANY_TEXT, Rules
from .tagged import NAME, NAMES

__all__ = ["call_grammar", "marked_only", "writes_messages"]

_LINE = '"\\n"?'


def call_grammar(work: Work, tokenizer: Any, calls_as: ToolFormat | None) -> str:
    """The grammar of the calls that `work` asks for.

    Raises:
        UnsupportedError: the model's format of calls cannot be enforced, or not for a tool's schema.
        GrammarError: a strict tool's schema cannot be enforced.
    """
    form = _form(tokenizer, calls_as)
    choice = work.tool_choice
    tools = [tool for tool in work.tools if choice.mode != "named" or tool.name == choice.name]
    if not tools:
        raise RequestError(f"tool_choice names {choice.name!r}, which is not one of the tools.")
    rules = Rules(tokenizer)
    answer = None
    if choice.mode == "auto":
        answer = ANY_TEXT if work.output.kind == "text" else rules.json(_answer_schema(work.output))
    # A call that was required is one: small models that may go on calling do not stop.
    several = choice.parallel and choice.mode == "auto" and form.messages is None
    calls = _Calls(form, rules, tools, several)
    if form.messages is not None:
        return rules.grammar(_message(calls, answer))
    if answer is None:
        start = calls.whole()
    elif answer is not ANY_TEXT:
        start = f"{answer} | {calls.whole()}"
    else:
        start = _free(calls, calls_as)
    if form.thought is not None and rules.can_come(form.thought[1]):
        begin, end = form.thought
        start = f"({rules.text(begin)} {rules.until(ANY_TEXT, end)})? ({start})"
    return rules.grammar(start)


def marked_only(calls_as: ToolFormat) -> bool:
    """Whether the grammar writes calls with their markers only, so that what looks like a bare call is text."""
    return calls_as.name not in FORMS or not FORMS[calls_as.name].bare


def writes_messages(calls_as: ToolFormat | None) -> bool:
    """Whether the grammar is of whole messages with their reasoning."""
    return calls_as is not None and calls_as.name in FORMS and FORMS[calls_as.name].messages is not None


def _form(tokenizer: Any, calls_as: ToolFormat | None) -> Form:
    name = "none" if calls_as is None else calls_as.name
    if name == "mistral" and "[ARGS]" not in tokenizer.get_vocab():
        name = "mistral_list"
    if name not in FORMS:
        reason = REFUSED.get(name, "no grammar of its calls is known")
        raise UnsupportedError(
            f"Calls cannot be enforced for this model, whose format of tool calls is {name!r}: {reason}."
        )
    return FORMS[name]


@dataclass(frozen=True)
class _Calls:
    """The calls of some tools in one form."""

    form: Form
    rules: Rules
    tools: Sequence[Tool]
    several: bool

    def whole(self) -> str:
        """All from what begins calls to what ends them."""
        form, rules = self.form, self.rules
        return f"{self._texts(form.begin)} {self._one(0)} {self.rest()} {rules.ending(form.tail)}"

    def opened(self) -> str:
        """The same behind the first text."""
        if self.form.begin:
            return f"{self._texts(self.form.begin[1:])} {self._one(0)} {self.rest()}"
        return f"{self._one(1)} {self.rest()}"

    @property
    def opening(self) -> str:
        """The first text."""
        first = (self.form.begin or self.form.call)[0]
        assert isinstance(first, str)
        return first

    def rest(self) -> str:
        """What comes behind the first call."""
        more = f"({self._texts(self.form.between)} {self._one(0)})*" if self.several else ""
        return f"{more} {self._texts(self.form.end)}"

    def _texts(self, parts: Sequence[Part]) -> str:
        return " ".join(self.rules.text(part) if isinstance(part, str) else _LINE for part in parts)

    def _one(self, skip: int) -> str:
        """One call, without the first parts of it."""
        ways = [self._call(tool, call[skip:]) for tool in self.tools for call in (self.form.call, *self.form.others)]
        return self.rules.rule(" | ".join(ways))

    def _call(self, tool: Tool, parts: Sequence[Part]) -> str:
        name = json.dumps(tool.name, ensure_ascii=False) if self.form.quoted else tool.name
        if not self.form.quoted and not NAMES.fullmatch(name):
            raise UnsupportedError(f"The tool name {name!r} cannot be written in this model's calls.")
        words = []
        for part in parts:
            if part is ARGUMENTS:
                words.append(self._arguments(tool))
            elif part is LINE:
                words.append(_LINE)
            elif part is NUMBER:
                words.append("/[0-9]{1,2}/")
            elif isinstance(part, str):
                words.append(self.rules.text(part.replace(NAME, name)))
        return " ".join(words)

    def _arguments(self, tool: Tool) -> str:
        style = self.form.arguments
        if style is None:
            return self.rules.json(arguments_schema(tool))
        try:
            return style.write(self.rules, tool, loose=False)
        except (GrammarError, UnsupportedError):
            if tool.strict:
                raise
            return style.write(self.rules, tool, loose=True)


def _free(calls: _Calls, calls_as: ToolFormat | None) -> str:
    """Any text without what begins calls, or with it and then nothing but calls.

    Texts in which the format structures the answer can stand anywhere before; other spellings of the beginning cannot.
    """
    form, rules = calls.form, calls.rules
    starts = [] if calls_as is None else [one for one in calls_as.all_starts if rules.is_plain(one)]
    ignored = () if calls_as is None else calls_as.ignored
    structure = [rules.text(one) for one in ignored if not rules.is_plain(one) and rules.can_come(one)]
    if form.bare:
        text = rules.terminal(f"/(?s:.)+/ & ~/\\s*\\{form.bare}(?s:.)*/{rules.lacks(*starts)}")
        return f"{text}? | {calls.whole()}"
    marker = calls.opening
    others = [one for one in starts if not marker.startswith(one) and not one.startswith(marker)]
    text = rules.terminal(f"/(?s:.)+/{rules.lacks(*others, *((marker,) if rules.is_plain(marker) else ()))}")
    before = rules.rule(f"({' | '.join([text, *structure])})*")
    first = rules.until(ANY_TEXT, marker, others)
    return f"{before} | {before} {first} {calls.opened()} {rules.ending(form.tail)}"


def _message(calls: _Calls, answer: str | None) -> str:
    """Whole messages: reasoning, then a call or an answer."""
    rules, messages = calls.rules, calls.form.messages
    assert messages is not None
    before = []
    for header, end in messages.reasoning:
        if rules.can_come(end):
            before.append(f"{rules.text(header)} {rules.until(ANY_TEXT, end, messages.stops)}")
    ways = [calls.whole()]
    if answer is not None:
        if answer is ANY_TEXT:
            lacking = rules.lacks(*(one for one in messages.stops if rules.is_plain(one)))
            answer = f"{rules.terminal(f'/(?s:.)+/{lacking}')}?"
        ways.append(f"{rules.text(messages.answer)} {answer}")
    start = rules.rule(" | ".join(ways))
    return f"({' | '.join(before)})* {start}" if before else start


def _answer_schema(output: OutputFormat) -> dict[str, Any]:
    """The schema of an answer that is given in place of a call."""
    if output.kind == "json_object":
        return prepare_schema({"type": "object"})
    try:
        return prepare_schema(output.value, closed=output.strict)
    except GrammarError:
        if output.strict:
            raise
        return prepare_schema({"type": "object"})
