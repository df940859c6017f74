"""A request to Anthropic's endpoints -> `Work`.

Contract: `to_work` is pure. Everything in the body is in the `Work`, refused by name, or in `schema.FIELDS` as ignored.
Raises RequestError or UnsupportedError with the place of what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError, UnsupportedError
from ..work import OutputFormat, SamplingSpec, Thinking, Tool, ToolChoice, Work
from .content import read_messages
from .schema import CountBody, MessagesBody, ThinkingBody

__all__ = ["Reply", "reply_of", "to_work"]

# Far above any context; larger numbers only mean "no limit".
_MAX_TOKENS = 2**31 - 1
# Asks for tool arguments while they are written, as `eager_input_streaming` does for one tool.
_EAGER_BETA = "fine-grained-tool-streaming-2025-05-14"


@dataclass(frozen=True)
class Reply:
    """What the request says about the form of its reply.

    `eager` names the tools whose arguments are sent while they are written ("*": all); the others' come when the call
    is complete, as the vendor does it: a client never sees half of a call that turns out to be none.
    """

    model: str
    stream: bool = False
    omit_thinking: bool = False
    eager: frozenset[str] = frozenset()


def to_work(body: CountBody) -> Work:
    """The work of a body; of a `CountBody` only what makes the prompt."""
    listed = _checked_tools(body.tools or ())
    conversation = read_messages(body.messages, body.system, listed)
    tools = _tools(listed, conversation.loaded)
    effort = body.output_config.effort if body.output_config else None
    full = body if isinstance(body, MessagesBody) else None
    return Work(
        model=body.model,
        messages=conversation.messages,
        prefill=conversation.prefill,
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        thinking=_thinking(body.thinking, effort),
        output=_output(body),
        sampling=SamplingSpec(full.temperature, full.top_p, full.top_k) if full else SamplingSpec(),
        max_tokens=min(full.max_tokens, _MAX_TOKENS) if full else None,
        stop=tuple(full.stop_sequences or ()) if full else (),
        clamp=True,
    )


def reply_of(body: MessagesBody, betas: str = "") -> Reply:
    """The form of the reply; `betas` is the `anthropic-beta` header."""
    eager = {str(tool.get("name")) for tool in body.tools or () if tool.get("eager_input_streaming") is True}
    if _EAGER_BETA in betas:
        eager.add("*")
    omit = body.thinking is not None and body.thinking.display == "omitted"
    return Reply(body.model or "", bool(body.stream), omit, frozenset(eager))


def _checked_tools(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        place = f"tools.{index}"
        name = tool.get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 256:
            raise RequestError(f"{place}.name: must be a string of 1 to 256 characters.")
        if name in names:
            raise RequestError(f"{place}.name: {name!r} is there already; names of tools must differ.")
        names.add(name)
        _check_definition(tool, place)
    return list(tools)


def _check_definition(tool: Mapping[str, Any], place: str) -> None:
    if not isinstance(tool.get("input_schema"), Mapping):
        raise RequestError(f"{place}.input_schema: must be a JSON schema of an object.")
    if not isinstance(tool.get("description"), str | None):
        raise RequestError(f"{place}.description: must be a string.")
    for flag in ("strict", "defer_loading", "eager_input_streaming"):
        if not isinstance(tool.get(flag), bool | None):
            raise RequestError(f"{place}.{flag}: must be true or false.")
    callers = tool.get("allowed_callers") or ["direct"]
    if not isinstance(callers, list):
        raise RequestError(f"{place}.allowed_callers: must be a list.")
    if "direct" not in callers:
        raise UnsupportedError(f"{place}.allowed_callers: only direct calls are supported.")


def _tools(listed: Sequence[Mapping[str, Any]], loaded: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools at the head of the prompt, then those whose definitions stand in the messages."""
    head = [tool for tool in listed if not tool.get("defer_loading")]
    names = {tool["name"] for tool in head}
    late = [tool for tool in loaded if tool["name"] not in names]
    for index, tool in enumerate(late):
        _check_definition(tool, f"tool_addition.{index}")
    return (*(_tool(tool, in_prompt=True) for tool in head), *(_tool(tool, in_prompt=False) for tool in late))


def _tool(tool: Mapping[str, Any], *, in_prompt: bool) -> Tool:
    strict = tool.get("strict") is True
    return Tool(tool["name"], tool.get("description"), dict(tool["input_schema"]), strict, in_prompt)


def _tool_choice(body: CountBody, tools: Sequence[Tool]) -> ToolChoice:
    choice = body.tool_choice
    if choice is None:
        return ToolChoice()
    parallel = not choice.disable_parallel_tool_use
    if choice.type in ("any", "tool") and not tools:
        raise RequestError("tool_choice: there are no tools to call.")
    if choice.type == "tool":
        if choice.name not in {tool.name for tool in tools}:
            raise RequestError(f"tool_choice.name: no tool is named {str(choice.name)[:80]!r}.")
        return ToolChoice("named", choice.name, parallel)
    mode = {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    return ToolChoice(mode, None, parallel)  # pyright: ignore[reportArgumentType]


def _thinking(thinking: ThinkingBody | None, effort: str | None) -> Thinking:
    if thinking is None or thinking.type == "disabled":
        return Thinking(enabled=False, effort=effort)
    if thinking.type == "adaptive":
        return Thinking(enabled=True, effort=effort)
    if thinking.budget_tokens is None:
        raise RequestError("thinking.budget_tokens: must be given for thinking of type 'enabled'.")
    return Thinking(enabled=True, budget=thinking.budget_tokens, effort=effort)


def _output(body: CountBody) -> OutputFormat:
    wanted = (body.output_config.format if body.output_config else None) or body.output_format
    return OutputFormat("json_schema", wanted.schema_) if wanted else OutputFormat()
