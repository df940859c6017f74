"""Chat messages of OpenAI's form -> messages of the chat template's form.

Text parts are joined; other parts are refused by name. Knows nothing of templates: `system` messages may stand
anywhere.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from ..errors import HTTPError
from ..fields import Body

__all__ = ["ChatMessage", "FunctionCall", "ToolCall", "arguments_of", "chat_messages", "text_of"]


class FunctionCall(Body):
    """A call's name and the JSON text of its arguments (an object is taken as well)."""

    name: str = Field(min_length=1, max_length=256)
    arguments: str | dict[str, Any] = ""


class ToolCall(Body):
    """A call that the assistant made."""

    id: str | None = Field(None, max_length=512)
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Body):
    """One message; which fields count depends on its role."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = Field(None, max_length=512)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = Field(None, max_length=512)
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


def chat_messages(messages: Sequence[ChatMessage]) -> tuple[Mapping[str, Any], ...]:
    """The template's messages.

    Raises:
        HTTPError: a part is not text, arguments are not a JSON object, or a field stands under the wrong role.
    """
    names: dict[str, str] = {}  # call id -> function, for the templates that print it with the result
    found: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        entry: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
        entry["content"] = text_of(message.content, f"{place}.content")
        if message.role == "assistant":
            _assistant(entry, message, place, names)
        else:
            if message.tool_calls:
                raise HTTPError(400, f"{place}.tool_calls: only assistant messages call tools.", param=place)
            if message.content is None:
                raise HTTPError(400, f"{place}.content is missing.", param=f"{place}.content")
        if message.role == "tool":
            if message.tool_call_id is None:
                raise HTTPError(400, f"{place}.tool_call_id is missing.", param=f"{place}.tool_call_id")
            entry["tool_call_id"] = message.tool_call_id
            if message.tool_call_id in names:
                entry["name"] = names[message.tool_call_id]
        if message.name is not None:
            entry["name"] = message.name
        found.append(entry)
    return tuple(found)


def _assistant(entry: dict[str, Any], message: ChatMessage, place: str, names: dict[str, str]) -> None:
    if message.content is None and message.refusal:
        entry["content"] = message.refusal
    reasoning = message.reasoning_content or message.reasoning
    if reasoning:
        entry["reasoning_content"] = reasoning
    if message.tool_calls:
        calls = entry["tool_calls"] = []
        for number, call in enumerate(message.tool_calls):
            where = f"{place}.tool_calls[{number}].function.arguments"
            function = {"name": call.function.name, "arguments": arguments_of(call.function.arguments, where)}
            identity = call.id or f"call_{len(names)}"
            names[identity] = call.function.name
            calls.append({"id": identity, "type": "function", "function": function})


def text_of(content: str | Sequence[Any] | None, place: str) -> str:
    """The text of a message's content; its text parts are joined without a mark between them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for index, part in enumerate(content):
        where = f"{place}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text", "refusal"):
            if not isinstance(kind, str):
                raise HTTPError(400, f"{where} must be an object with a type.", param=where)
            raise HTTPError(
                400,
                f"{where}: {kind[:40]} parts are not supported; the models of this server read text.",
                param=where,
                code="unsupported_content",
            )
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise HTTPError(400, f"{where}.text must be a string.", param=where)
        texts.append(text)
    return "".join(texts)


def arguments_of(arguments: str | Mapping[str, Any], place: str) -> dict[str, Any]:
    """A call's arguments as an object; the empty text is the empty object."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    try:
        value = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPError(400, f"{place} must be the JSON text of an object.", param=place)
    return value
