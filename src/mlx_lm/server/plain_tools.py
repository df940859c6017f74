"""Tools for models whose chat template knows none: described in the system message, called in the commonest form.

Contract: `with_plain_tools` rewrites a conversation so that a template of plain messages can render it: definitions go
into the system message, earlier calls and results become text in the form that the parser `json_tools` reads. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .work import Tool

__all__ = ["PLAIN_FORMAT", "knows_tools", "with_plain_tools"]

PLAIN_FORMAT = "json_tools"
# The form of a call is last: small models write what they read last (SmolLM2 began with <tool_response> otherwise).
_GUIDE = """You can call functions. Each is described by a JSON object:
<tools>
{tools}
</tools>
The result of a call comes between <tool_response> and </tool_response>.
To call a function, write its name and its arguments as a JSON object between tags, and nothing after it:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def knows_tools(template: str) -> bool:
    """Whether a chat template does anything with tools."""
    return "tools" in template or "tool_calls" in template


def with_plain_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The conversation as plain messages, with the definitions of the tools that are to be in the prompt."""
    plain = [_plain(message) for message in messages]
    shown = [json.dumps(tool.as_function(), ensure_ascii=False) for tool in tools if tool.in_prompt]
    if not shown:
        return plain
    guide = _GUIDE.format(tools="\n".join(shown))
    if plain and plain[0]["role"] == "system":
        first = {**plain[0], "content": f"{plain[0]['content']}\n\n{guide}"}
        return [first, *plain[1:]]
    return [{"role": "system", "content": guide}, *plain]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    texts = [content] if content else []
    for call in calls:
        function = call["function"]
        body = {"name": function["name"], "arguments": function["arguments"]}
        texts.append(f"<tool_call>\n{json.dumps(body, ensure_ascii=False)}\n</tool_call>")
    return {"role": message["role"], "content": "\n".join(texts)}
