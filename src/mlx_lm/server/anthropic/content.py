"""Messages as Anthropic's clients write them -> messages as chat templates read them.

Contract: what means the same becomes the same text, so that the next turn finds its prefix in the cache: a string and
its one text block, any `cache_control`, and the lines of Claude Code's that change by themselves: the billing header
from session to session, the `<total_tokens>` countdown from request to request. The result has one system message at
most, and it stands first; consecutive messages of one role are one message.

System messages in the middle. Many templates refuse a system message that is not the first (Gemma, Mistral, Llama 2),
others write a second one that their model never saw in training (Qwen2.5, SmolLM2). Their text goes, in
`<system-reminder>` tags, where every template keeps it: to the end of the user message or tool result that it follows,
or into a user message of its own after an answer. Nothing before it changes, so nothing that is cached is lost.

Refused by name: images, documents and every other block that a text model cannot read. This module knows no
tokenizer and no sampling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import RequestError, UnsupportedError
from . import signature
from .schema import MessageBody

__all__ = ["Conversation", "read_messages"]

_BILLING = re.compile(r"\A\s*x-anthropic-billing-header:[^\n]*(?:\n|\Z)")
# How much of its window Claude Code thinks is left: a line that changes with every request. It counts on a window that
# is not this model's, and in the system prompt it would make every prefix new.
_COUNTDOWN = re.compile(r"^[ \t]*<total_tokens>[^<>\n]{1,40}</total_tokens>[ \t]*(?:\n|\Z)", re.MULTILINE)
_REMINDER = ("<system-reminder>\n", "\n</system-reminder>")
# The beginnings by which a tool's own text already says that it failed.
_SAYS_ERROR = ("error", "<tool_use_error>", "<error>")


@dataclass(frozen=True)
class Conversation:
    """Messages for the chat template.

    `prefill`: the last one is an answer to go on with. `loaded`: tools whose definitions stand in the messages.
    """

    messages: tuple[dict[str, Any], ...]
    prefill: bool = False
    loaded: tuple[Mapping[str, Any], ...] = ()


def read_messages(
    messages: Sequence[MessageBody],
    system: str | Sequence[Mapping[str, Any]] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Conversation:
    """The conversation of a request; `tools` are the definitions that it may refer to.

    Raises:
        RequestError: a block is malformed, or a tool result answers no call; the message says where.
        UnsupportedError: a block of a kind that is not supported; the message names it.
    """
    reader = _Reader({tool["name"]: tool for tool in tools if isinstance(tool.get("name"), str)})
    reader.system(system)
    for index, message in enumerate(messages):
        place = f"messages.{index}"
        match message.role:
            case "system":
                reader.reminder(message.content, place)
            case "user":
                reader.user(message.content, place)
            case _:
                reader.assistant(message.content, place)
    return reader.result()


def joined(left: str, right: str) -> str:
    """Two pieces as paragraphs: a line end between them where neither has one there."""
    if not left or not right:
        return left + right
    return left + right if left[-1] == "\n" or right[0] == "\n" else f"{left}\n{right}"


@dataclass
class _Reader:
    definitions: dict[str, Mapping[str, Any]]
    out: list[dict[str, Any]] = field(default_factory=list)
    loaded: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    tool_names: dict[str, str] = field(default_factory=dict)  # id of a call -> the tool's name

    def system(self, value: str | Sequence[Mapping[str, Any]] | None) -> None:
        text = self._system_text(value or "", "system")
        if text:
            self.out.append({"role": "system", "content": text})

    def reminder(self, value: str | Sequence[Mapping[str, Any]], place: str) -> None:
        """A system message: leading ones are the system prompt, later ones go to what they follow."""
        text = self._system_text(value, place)
        if not text:
            return
        if not self.out:
            self.out.append({"role": "system", "content": text})
        elif [message["role"] for message in self.out] == ["system"]:
            self._append(text)
        else:
            wrapped = text if text.lstrip().startswith(_REMINDER[0].strip()) else text.join(_REMINDER)
            if self.out[-1]["role"] == "assistant":
                self.out.append({"role": "user", "content": wrapped})
            else:
                self._append(wrapped)

    def user(self, value: str | Sequence[Mapping[str, Any]], place: str) -> None:
        text = ""
        for block, where in _blocks(value, place):
            match block["type"]:
                case "text":
                    text = joined(text, _string(block, "text", where))
                case "tool_result":
                    self._tool_result(block, where)
                case kind:
                    raise _unsupported(kind, where)
        if not text:
            return
        if self.out and self.out[-1]["role"] == "user":
            self._append(text)
        else:
            self.out.append({"role": "user", "content": text})

    def assistant(self, value: str | Sequence[Mapping[str, Any]], place: str) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for block, where in _blocks(value, place):
            match block["type"]:
                case "text":
                    texts.append(_string(block, "text", where))
                case "thinking":
                    thought = _string(block, "thinking", where) or signature.read(block.get("signature"))
                    thoughts += [thought] if thought else []
                case "redacted_thinking":
                    pass  # nobody but the server that wrote it can read it
                case "tool_use":
                    calls.append(self._tool_use(block, where))
                case kind:
                    raise _unsupported(kind, where)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        if self.out and self.out[-1]["role"] == "assistant":
            _merge_answer(self.out[-1], message)
        elif message["content"] or thoughts or calls:
            self.out.append(message)

    def result(self) -> Conversation:
        last = self.out[-1] if self.out else None
        if last is not None and last["role"] == "assistant" and last.get("tool_calls"):
            raise RequestError("messages: the last message calls tools; their tool_result blocks must follow.")
        if last is not None and last["role"] == "assistant" and not last["content"]:
            self.out.pop()  # nothing to go on with
        if not self.out or self.out[-1]["role"] == "system":
            raise RequestError("messages: at least one message with text is needed.")
        return Conversation(tuple(self.out), self.out[-1]["role"] == "assistant", tuple(self.loaded.values()))

    def _append(self, text: str) -> None:
        last = self.out[-1]
        self.out[-1] = {**last, "content": joined(last["content"], text)}

    def _system_text(self, value: str | Sequence[Mapping[str, Any]], place: str) -> str:
        text = ""
        for block, where in _blocks(value, place):
            match block["type"]:
                case "text":
                    text = joined(text, _without_marks(_string(block, "text", where)))
                case "tool_addition":
                    text = joined(text, self._addition(block, where))
                case "tool_removal":
                    name = _string(_mapping(block, "tool", where), "name", f"{where}.tool")
                    text = joined(text, f"The tool {name} is no longer available.")
                case kind:
                    raise _unsupported(kind, where)
        return text

    def _addition(self, block: Mapping[str, Any], place: str) -> str:
        tool = _mapping(block, "tool", place)
        match tool.get("type"):
            case "tool_reference":
                return self._load(_string(tool, "name", f"{place}.tool"))
            case "tool_definition":
                definition = _mapping(tool, "definition", f"{place}.tool")
                name = _string(definition, "name", f"{place}.tool.definition")
                self.definitions[name] = definition
                return self._load(name)
            case kind:
                raise _unsupported(str(kind), f"{place}.tool")

    def _load(self, name: str) -> str:
        """A tool that comes in the middle: its definition stands here, so what is above stays as it is cached."""
        definition = self.definitions.get(name)
        if definition is None:
            return f"The tool {name} is not available."
        self.loaded[name] = definition
        schema = definition.get("input_schema") or {}
        shown = {"description": definition.get("description", ""), "name": name, "parameters": schema}
        return f"<functions>\n<function>{json.dumps(shown, ensure_ascii=False)}</function>\n</functions>"

    def _tool_use(self, block: Mapping[str, Any], place: str) -> dict[str, Any]:
        call_id = _string(block, "id", place)
        name = _string(block, "name", place)
        arguments = block.get("input", {})
        if not isinstance(arguments, Mapping):
            raise RequestError(f"{place}.input: must be an object.")
        self.tool_names[call_id] = name
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}

    def _tool_result(self, block: Mapping[str, Any], place: str) -> None:
        call_id = _string(block, "tool_use_id", place)
        if call_id not in self.tool_names:
            raise RequestError(f"{place}.tool_use_id: no tool_use block before it has the id {call_id[:80]!r}.")
        text = ""
        for part, where in _blocks(block.get("content") or "", f"{place}.content"):
            match part["type"]:
                case "text":
                    text = joined(text, _string(part, "text", where))
                case "tool_reference":
                    text = joined(text, self._load(_string(part, "tool_name", where)))
                case kind:
                    raise _unsupported(kind, where)
        if not isinstance(block.get("is_error"), bool | None):
            raise RequestError(f"{place}.is_error: must be true or false.")
        if block.get("is_error") and not text.lstrip().lower().startswith(_SAYS_ERROR):
            text = f"Error: {text}" if text else "Error"
        name = self.tool_names[call_id]
        self.out.append({"role": "tool", "tool_call_id": call_id, "name": name, "content": text})


def _without_marks(text: str) -> str:
    """A system text without the lines that a client writes for the vendor's servers and changes as it goes."""
    text = _BILLING.sub("", text) if "x-anthropic-billing-header" in text else text
    return _COUNTDOWN.sub("", text) if "<total_tokens>" in text else text


def _merge_answer(last: dict[str, Any], message: Mapping[str, Any]) -> None:
    last["content"] += message["content"]
    if "reasoning_content" in message:
        last["reasoning_content"] = joined(last.get("reasoning_content", ""), message["reasoning_content"])
    if "tool_calls" in message:
        last["tool_calls"] = [*last.get("tool_calls", []), *message["tool_calls"]]


def _blocks(value: Any, place: str) -> list[tuple[Mapping[str, Any], str]]:
    """The blocks of a content with their places; a string is one text block."""
    if isinstance(value, str):
        return [({"type": "text", "text": value}, place)]
    if not isinstance(value, Sequence):
        raise RequestError(f"{place}: must be a string or a list of blocks.")
    blocks = [(block, f"{place}.{index}") for index, block in enumerate(value)]
    for block, where in blocks:
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise RequestError(f"{where}: must be a block with a type.")
    return blocks


def _mapping(block: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    value = block.get(key)
    if not isinstance(value, Mapping):
        raise RequestError(f"{place}.{key}: must be an object.")
    return value


def _string(block: Mapping[str, Any], key: str, place: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise RequestError(f"{place}.{key}: must be a string.")
    return value


def _unsupported(kind: str, place: str) -> UnsupportedError:
    reason = {
        "image": "This server's models read text only: images are not supported",
        "document": "Documents are not supported: send their text",
        "search_result": "Search results are not supported: send their text",
    }.get(kind, f"Blocks of type {kind[:80]!r} are not supported")
    return UnsupportedError(f"{place}: {reason}.")
