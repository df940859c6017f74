"""The text of one tool call as a dict: the `tool_parser` of a tokenizer, as programs written for mlx-lm call it.

This module does not stream; `stream` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.errors import RequestError
from mlx_lm.tokenizer.parsers.detect import ParserChoice
from mlx_lm.tokenizer.parsers.session import ToolFormat
from mlx_lm.tokenizer.parsers.stream import parse_complete

__all__ = ["ToolCallReader"]


@dataclass(frozen=True)
class ToolCallReader:
    """Reads the text between `tool_call_start` and `tool_call_end`."""

    format: ToolFormat

    @property
    def tool_call_start(self) -> str:
        return self.format.start

    @property
    def tool_call_end(self) -> str:
        """An empty string where a call ends with the turn."""
        return self.format.end

    def __call__(self, text: str, tools: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any] | list[Any]:
        """Gives {"name": ..., "arguments": {...}}, with "id" where the model wrote one; a list for several calls.

        Raises RequestError, a ValueError, if the text is no call.
        """
        choice = ParserChoice(tools=self.format)
        parsed = parse_complete(self.format.start + text + self.format.end, choice, tools=tools, new_id=_no_id)
        if not parsed.tool_calls:
            raise RequestError(f"Not a tool call of the format {self.format.name}: {text!r:.200}")
        calls: list[dict[str, Any]] = []
        for call in parsed.tool_calls:
            written = {} if call.id.startswith(_NO_ID) else {"id": call.id}
            calls.append({"name": call.name, "arguments": json.loads(call.arguments), **written})
        return calls[0] if len(calls) == 1 else calls


_NO_ID = "\0"


def _no_id(name: str, index: int) -> str:
    return f"{_NO_ID}{index}"
