"""Between `llm`'s messages and a chat template's, and from a parser's events to `llm`'s.

Contract: `chat_messages` gives the whole conversation that `llm` wants to be sent, with at most one system message,
the latest, in front. `Answer` turns a model's text into what `llm` streams and logs: text, reasoning, tool calls. A
malformed tool call stays visible text. Works with llm 0.31 and newer; one without parts is given text and calls only.

This module knows neither models nor MLX.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import UnsupportedError
from ..tokenizer.parsers import (
    Event,
    ReasoningDelta,
    StreamParser,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)

__all__ = ["Answer", "chat_messages", "function_tools", "plain_text"]


def chat_messages(prompt: Any, conversation: Any) -> list[dict[str, Any]]:
    """The messages of an `llm.Prompt` in the form that chat templates read.

    Raises:
        UnsupportedError: there is an attachment.
    """
    messages = _from_parts(prompt.messages) if hasattr(prompt, "messages") else _from_history(prompt, conversation)
    system = [message for message in messages if message["role"] == "system"]
    if prompt.system:  # llm leaves a later turn's out of the messages
        system = [{"role": "system", "content": prompt.system}]
    return [*system[-1:], *(message for message in messages if message["role"] != "system")]


def function_tools(tools: Sequence[Any] | None) -> list[dict[str, Any]]:
    """`llm.Tool`s in the form that chat templates and parsers read."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.input_schema or {"type": "object", "properties": {}},
            },
        }
        for tool in tools or ()
    ]


def plain_text(messages: Sequence[dict[str, Any]]) -> str:
    """The conversation for a model without a chat template, which continues texts: contents, one after another."""
    return "\n".join(str(message["content"]) for message in messages if message["content"])


def _from_parts(messages: Sequence[Any]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for message in messages:
        texts: list[str] = []
        reasoning: list[str] = []
        calls: list[dict[str, Any]] = []
        for part in message.parts:
            match part.to_dict()["type"]:
                case "text":
                    texts.append(part.text)
                case "reasoning":
                    reasoning.append(part.text)
                case "tool_call":
                    calls.append(_call(part.tool_call_id, part.name, part.arguments))
                case "tool_result":
                    _refuse_attachments(part.attachments)
                    result.append(_result(part.tool_call_id, part.name, part.output))
                case _:
                    _refuse_attachments([part])
        if message.role == "tool" and not texts:
            continue
        entry: dict[str, Any] = {"role": message.role, "content": "".join(texts)}
        if any(reasoning):
            entry["reasoning_content"] = "".join(reasoning)
        if calls:
            entry["tool_calls"] = calls
        result.append(entry)
    return result


def _from_history(prompt: Any, conversation: Any) -> list[dict[str, Any]]:
    """The same from the responses of a conversation, for an `llm` whose prompts know their own turn alone."""
    result: list[dict[str, Any]] = []
    for response in conversation.responses if conversation is not None else ():
        result += _turn(response.prompt)
        entry: dict[str, Any] = {"role": "assistant", "content": response.text_or_raise()}
        calls = [_call(call.tool_call_id, call.name, call.arguments) for call in response.tool_calls_or_raise()]
        result.append(entry | {"tool_calls": calls} if calls else entry)
    return [*result, *_turn(prompt)]


def _turn(prompt: Any) -> list[dict[str, Any]]:
    _refuse_attachments(prompt.attachments)
    turn: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    turn += [_result(result.tool_call_id, result.name, result.output) for result in prompt.tool_results]
    return [*turn, {"role": "user", "content": prompt.prompt}] if prompt.prompt else turn


def _call(call_id: str | None, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": call_id or "", "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(call_id: str | None, name: str, output: str) -> dict[str, Any]:
    return {"role": "tool", "name": name, "tool_call_id": call_id or "", "content": output}


def _refuse_attachments(attachments: Sequence[Any]) -> None:
    if attachments:
        raise UnsupportedError("These models read text alone: leave out the attachment.")


class Answer:
    """One answer on its way to `llm`.

    Args:
        parser: of the model's reasoning and tool calls; it must hold calls back until they are complete.
        response: the `llm.Response` that the calls are added to.
    """

    def __init__(self, parser: StreamParser, response: Any) -> None:
        self._parser = parser
        self._response = response
        self._calls: dict[int, tuple[ToolCallStart, list[str]]] = {}

    def add(self, text: str) -> Iterator[Any]:
        """What `llm` is given for the next piece of the model's text."""
        yield from self._translate(self._parser.feed(text))

    def finish(self) -> Iterator[Any]:
        """The rest."""
        yield from self._translate(self._parser.finish())

    def _translate(self, events: Sequence[Event]) -> Iterator[Any]:
        for event in events:
            match event:
                case TextDelta(text):
                    if text:
                        yield text
                case ReasoningDelta(text):
                    yield from _event("reasoning", text)
                case ToolCallStart(index):
                    self._calls[index] = (event, [])
                case ToolCallArguments(index, fragment):
                    self._calls[index][1].append(fragment)
                case ToolCallEnd(index):
                    yield from self._called(*self._calls.pop(index))
                case ToolCallFailed(index, text):
                    del self._calls[index]
                    yield text
                case _:  # TextWasReasoning: what was shown cannot be taken back
                    pass

    def _called(self, start: ToolCallStart, fragments: list[str]) -> Iterator[Any]:
        from llm import ToolCall  # type: ignore[import-not-found]

        arguments = "".join(fragments)
        self._response.add_tool_call(ToolCall(name=start.name, arguments=json.loads(arguments), tool_call_id=start.id))
        yield from _event("tool_call_name", start.name, tool_call_id=start.id)
        yield from _event("tool_call_args", arguments, tool_call_id=start.id)


def _event(kind: str, text: str, **fields: Any) -> Iterator[Any]:
    """An `llm` event that is not text; nothing where `llm` is too old to know them."""
    try:
        from llm.parts import StreamEvent  # type: ignore[import-not-found]
    except ImportError:
        return
    if text:
        yield StreamEvent(type=kind, chunk=text, **fields)
