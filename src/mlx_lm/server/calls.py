"""Tool calls as a grammar: the text that a model writes to call the tools of a request, in its own format.

Contract: `call_grammar` gives a grammar in Lark's syntax. With a call required it is one call; with a free choice
it is any text, in which every call keeps to its tool's schema. A format whose calls have no grammar here is
refused by name. Names of tools come from strangers and only ever appear as quoted text.

This module does not know tokens beyond the ids of markers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import GrammarError, RequestError, UnsupportedError
from ..grammar import prepare_schema
from ..grammar.compiler import compiler_of
from ..grammar.lark import WHITESPACE
from ..grammar.patterns import lark_string
from ..tokenizer.parsers import ToolFormat
from .work import OutputFormat, Tool, Work

__all__ = ["call_grammar"]

# As the grammar room writes JSON.
_JSON = MappingProxyType(
    {
        "lenient": False,
        "coerce_one_of": False,
        "json_allowed_escapes": 'nrbtf\\"',
        "whitespace_pattern": WHITESPACE,
    }
)


@dataclass(frozen=True)
class _Form:
    """How a format writes calls: `begin`, the calls with `between` them, `end`.

    `call` gives what one call is made of: texts, markers ("<name>" in angle brackets of any kind) and None for where
    the arguments stand. `opens` is what tells that calls begin, for free text before them.
    """

    begin: tuple[str, ...]
    call: Callable[[str], tuple[str | None, ...]]
    between: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    several: bool = True


def _json_call(name_key: str, arguments_key: str, before: str = "", after: str = "") -> Any:
    def call(name: str) -> tuple[str | None, ...]:
        head = f'{before}{{"{name_key}": {json.dumps(name, ensure_ascii=False)}, "{arguments_key}": '
        return head, None, "}" + after

    return call


_TAGGED = _Form((), lambda n: ("<tool_call>", *_json_call("name", "arguments", "\n", "\n")(n), "</tool_call>"), ("\n",))
_FORMS: Mapping[str, _Form] = MappingProxyType(
    {
        "json_tools": _TAGGED,
        "llama3": _Form((), _json_call("name", "parameters"), ("; ",)),
        "granite": _Form(("<|tool_call|>", "["), _json_call("name", "arguments"), (", ",), ("]",)),
        "phi4_mini": _Form(("functools[",), _json_call("name", "arguments"), (", ",), ("]",)),
        "nemotron": _Form(("<TOOLCALL>", "["), _json_call("name", "arguments"), (", ",), ("]", "</TOOLCALL>")),
        "mistral": _Form((), lambda n: ("[TOOL_CALLS]", n, "[ARGS]", None)),
        "mistral_list": _Form(("[TOOL_CALLS]", "["), _json_call("name", "arguments"), (", ",), ("]",)),
        "command_r": _Form(
            ("<|START_ACTION|>", "["), _json_call("tool_name", "parameters"), (", ",), ("]", "<|END_ACTION|>")
        ),
        "deepseek_v3": _Form(
            ("<｜tool▁calls▁begin｜>",),  # noqa: RUF001
            lambda n: ("<｜tool▁call▁begin｜>", n, "<｜tool▁sep｜>", None, "<｜tool▁call▁end｜>"),  # noqa: RUF001
            (),
            ("<｜tool▁calls▁end｜>",),  # noqa: RUF001
        ),
        "kimi_k2": _Form(
            ("<|tool_calls_section_begin|>",),
            lambda n: (
                "<|tool_call_begin|>", f"functions.{n}:0", "<|tool_call_argument_begin|>", None, "<|tool_call_end|>"
            ),
            (),
            ("<|tool_calls_section_end|>",),
            several=False,  # the second call's number is not the first's
        ),
    }
)  # fmt: skip


def call_grammar(work: Work, tokenizer: Any, calls_as: ToolFormat | None) -> str:
    """The grammar of the calls that `work` asks for.

    Raises:
        UnsupportedError: the model's format of calls cannot be enforced.
        GrammarError: a strict tool's schema cannot be enforced.
    """
    form = _form(tokenizer, calls_as)
    choice = work.tool_choice
    tools = [tool for tool in work.tools if choice.mode != "named" or tool.name == choice.name]
    if not tools:
        raise RequestError(f"tool_choice names {choice.name!r}, which is not one of the tools.")
    writer = _Writer(tokenizer)
    rules = [f"a{i}: %json {json.dumps({**_schema(tool), 'x-guidance': dict(_JSON)})}" for i, tool in enumerate(tools)]
    rules.append(_choice("call", tools, lambda tool, i: writer.sequence(form.call(tool.name), f"a{i}")))
    # A call that was required is one: small models that may go on calling do not stop.
    several = form.several and choice.parallel and choice.mode == "auto"
    between = writer.sequence(form.between)
    more = f"({between} call)*" if several else ""
    end = writer.sequence(form.end)
    if choice.mode in ("required", "named"):
        return "\n".join([f"start: {writer.sequence(form.begin)} call {more} {end}", *rules])
    if work.output.kind != "text":
        rules.append(f"answer: %json {json.dumps({**_answer_schema(work.output), 'x-guidance': dict(_JSON)})}")
        return "\n".join([f"start: answer | {writer.sequence(form.begin)} call {more} {end}", *rules])
    return "\n".join([*_free(form, tools, f"{more} {end}", writer), *rules])


def _choice(rule: str, tools: Sequence[Tool], write: Callable[[Tool, int], str]) -> str:
    return f"{rule}: {' | '.join(write(tool, i) for i, tool in enumerate(tools))}"


def _free(form: _Form, tools: Sequence[Tool], rest: str, writer: _Writer) -> list[str]:
    """Rules for any text without the marker that begins calls, or with it and then nothing but calls."""
    marker = (form.begin or form.call(tools[0].name))[0]
    if marker is None or marker.startswith("{"):
        raise UnsupportedError(
            "strict tools need tool_choice 'required' or a named function here: no marker tells where this model's "
            "calls begin, so they cannot be told from an answer in advance."
        )
    if form.begin:
        first, opened = f"{writer.sequence(form.begin[1:])} call", []
    else:
        first, skip = "opened", 1
        opened = [_choice("opened", tools, lambda tool, i: writer.sequence(form.call(tool.name)[skip:], f"a{i}"))]
    if writer.is_special(marker):
        return [f"start: TEXT? | TEXT? {writer.sequence((marker,))} {first} {rest}", *opened, "TEXT: /(.|\\n)+/"]
    pattern = lark_string(marker).strip("/")
    return [
        f"start: TEXT? | before {first} {rest}",
        *opened,
        f"before[suffix={json.dumps(marker, ensure_ascii=False)}]: /(.|\\n)*/",
        f"TEXT: /(.|\\n)+/ & ~/(.|\\n)*{pattern}(.|\\n)*/",
    ]


def _form(tokenizer: Any, calls_as: ToolFormat | None) -> _Form:
    name = "none" if calls_as is None else calls_as.name
    if name == "mistral" and "[ARGS]" not in tokenizer.get_vocab():
        name = "mistral_list"
    if name not in _FORMS:
        raise UnsupportedError(
            f"Calls cannot be enforced for this model, whose format of tool calls is {name!r}; "
            f"they can for {', '.join(sorted(_FORMS))}."
        )
    return _FORMS[name]


def _schema(tool: Tool) -> dict[str, Any]:
    """The schema of the arguments; a tool that is not strict falls back to any object."""
    try:
        return prepare_schema({"type": "object", **tool.parameters}, closed=tool.strict)
    except GrammarError:
        if tool.strict:
            raise
        return prepare_schema({"type": "object"})


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


class _Writer:
    """Texts and markers in Lark's syntax; a marker that is one special token is named by its id.

    Special is what the grammar's vocabulary takes for no text, which are more tokens than the tokenizer calls special.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = compiler_of(tokenizer).vocabulary

    def _id(self, text: str) -> int | None:
        ids = self._tokenizer.encode(text, add_special_tokens=False) if text else []
        return ids[0] if len(ids) == 1 and self._vocabulary.is_special_token(ids[0]) else None

    def is_special(self, text: str) -> bool:
        """Whether a text is one special token."""
        return self._id(text) is not None

    def sequence(self, parts: Sequence[str | None], arguments: str = "") -> str:
        """The parts one after another; `arguments` is the rule that stands for None."""
        words = []
        for part in parts:
            token = None if part is None else self._id(part)
            words.append(arguments if part is None else lark_string(part) if token is None else f"<[{token}]>")
        return " ".join(words)
