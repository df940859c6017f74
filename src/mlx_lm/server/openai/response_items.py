"""Input items of the responses API -> messages of the chat template's form.

What one turn of the assistant wrote (reasoning, text, calls) comes as several items and is one message of a template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import HTTPError
from .messages import arguments_of, text_of

__all__ = ["input_messages"]

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def input_messages(items: str | Sequence[Mapping[str, Any]], instructions: str | None) -> tuple[dict[str, Any], ...]:
    """The messages; HTTPError names the item that is malformed or not supported."""
    reader = _Reader()
    if instructions:
        reader.messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        reader.messages.append({"role": "user", "content": items})
    else:
        for index, item in enumerate(items):
            reader.read(item, f"input[{index}]")
    return tuple(reader.messages)


class _Reader:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}  # call id -> function

    def read(self, item: Mapping[str, Any], place: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item, place)
            case "function_call":
                self._call(item, place)
            case "function_call_output":
                self._result(item, place)
            case "reasoning":
                self._reasoning(item, place)
            case kind:
                reason = "nothing is stored" if kind == "item_reference" else "messages, functions and reasoning are"
                raise HTTPError(
                    400,
                    f"{place}: items of type {str(kind)[:40]!r} are not supported ({reason}).",
                    param=place,
                    code="unsupported_content",
                )

    def _message(self, item: Mapping[str, Any], place: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise HTTPError(400, f"{place}.role must be user, assistant, system or developer.", param=f"{place}.role")
        content = item.get("content")
        if not isinstance(content, str | list):
            raise HTTPError(400, f"{place}.content must be text or a list of parts.", param=f"{place}.content")
        text = text_of(content, f"{place}.content")
        if role == "assistant":
            turn = self._turn(new=lambda last: "tool_calls" in last)
            turn["content"] += text
        else:
            self.messages.append({"role": _ROLES[role], "content": text})

    def _call(self, item: Mapping[str, Any], place: str) -> None:
        identity, name, arguments = (_text(item, key, place) for key in ("call_id", "name", "arguments"))
        function = {"name": name, "arguments": arguments_of(arguments, f"{place}.arguments")}
        self._names[identity] = name
        calls = self._turn(new=lambda _: False).setdefault("tool_calls", [])
        calls.append({"id": identity, "type": "function", "function": function})

    def _result(self, item: Mapping[str, Any], place: str) -> None:
        identity = _text(item, "call_id", place)
        output = item.get("output")
        if not isinstance(output, str | list):
            raise HTTPError(400, f"{place}.output must be text or a list of parts.", param=f"{place}.output")
        message = {"role": "tool", "content": text_of(output, f"{place}.output"), "tool_call_id": identity}
        if identity in self._names:
            message["name"] = self._names[identity]
        self.messages.append(message)

    def _reasoning(self, item: Mapping[str, Any], place: str) -> None:
        """The text of a reasoning item, or else its summary. Encrypted reasoning is not ours, and is dropped."""
        parts = item.get("content") or item.get("summary") or []
        if not isinstance(parts, list):
            raise HTTPError(400, f"{place}.content must be a list of parts.", param=f"{place}.content")
        text = "".join(
            part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        )
        if text:
            turn = self._turn(new=lambda last: bool(last["content"]) or "tool_calls" in last)
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def _turn(self, new: Any) -> dict[str, Any]:
        """The assistant's message that is being written; another one begins after others, or when `new` says so."""
        if not self.messages or self.messages[-1]["role"] != "assistant" or new(self.messages[-1]):
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]


def _text(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise HTTPError(400, f"{place}.{key} must be a string.", param=f"{place}.{key}")
    return value
