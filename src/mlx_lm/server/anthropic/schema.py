"""What a client may send to Anthropic's endpoints: the bodies, typed, and a word on each of their fields.

Contract: the tables read a body as the vendor's clients write it, and say of every field whether it is honoured,
refused by name or ignored on purpose; the documentation is generated from them. A field in no table is unknown and
ignored, because clients send new ones every month.

Source: the types of Anthropic's Python client 2.12 and what Claude Code 2.1.329 sends. Nothing here knows templates.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..fields import Body, FieldTable, Rule, honoured, ignored, refused

__all__ = ["COUNT", "MESSAGES", "CountBody", "MessageBody", "MessagesBody", "OutputConfig", "ThinkingBody"]

_Stop = Annotated[str, Field(min_length=1, max_length=10_000)]
_Blocks = list[dict[str, Any]]  # read by `content.py`, which names the place of what is wrong in them


class MessageBody(Body):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | _Blocks


class ThinkingBody(Body):
    """`adaptive`: the model decides how much; `enabled`: at most `budget_tokens`, enforced."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class FormatBody(Body):
    """A JSON schema that the answer's text must match."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """How much effort, and in what form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FormatBody | None = None


class ToolChoiceBody(Body):
    """Whether tools are called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountBody(Body):
    """The body of /v1/messages/count_tokens: the part of /v1/messages that makes the prompt."""

    model: Annotated[str, Field(max_length=300)] | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=100_000)]
    system: str | _Blocks | None = None
    tools: _Blocks | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None
    output_format: FormatBody | None = None


class MessagesBody(CountBody):
    """The body of /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: Annotated[list[_Stop], Field(max_length=64)] | None = None


_PROMPT_RULES: dict[str, Rule] = {
    "model": honoured("An id or alias of /v1/models; without it the default model answers."),
    "messages[].role": honoured("user, assistant or system. Neighbours of one role are one message."),
    "messages[].content": honoured("Text, or text, tool_use, tool_result and thinking blocks; others are refused."),
    "messages[].content[].cache_control": ignored("Every prefix is reused without marks; moved marks move nothing."),
    "system": honoured("Text or text blocks. Lines that change by themselves (billing, token countdown) are dropped."),
    "tools[].name": honoured("1 to 256 characters, each once."),
    "tools[].description": honoured("Given to the chat template."),
    "tools[].input_schema": honoured("JSON schema of an object."),
    "tools[].strict": honoured("The input is held to the schema by a grammar."),
    "tools[].defer_loading": honoured("Not in the prompt before a tool_reference or tool_addition block loads it."),
    "tools[].eager_input_streaming": honoured("The input is sent while it is written; else when the call is complete."),
    "tools[].allowed_callers": honoured("Must hold `direct`, if given."),
    "tools[].type": refused("Tools that the vendor defines or runs; give a custom tool with its schema.", "custom"),
    "tools[].input_examples": ignored("Chat templates have no place for them."),
    "tools[].cache_control": ignored("Every prefix is reused without marks."),
    "tool_choice.type": honoured("auto, any, tool or none; any and tool by grammar, in every format."),
    "tool_choice.name": honoured("Of the tool that must be called."),
    "tool_choice.disable_parallel_tool_use": honoured("The answer ends with its first call."),
    "thinking.type": honoured("enabled, disabled or adaptive. Without `thinking` it is disabled."),
    "thinking.budget_tokens": honoured("At least 1; a hard limit of the tokens of reasoning."),
    "thinking.display": honoured("omitted: the text travels in the signature, unseen, and comes back with it."),
    "output_config.effort": honoured("Given to chat templates that know an effort."),
    "output_config.format.type": honoured("json_schema."),
    "output_config.format.schema": honoured("Enforced by a grammar."),
    "output_format.type": honoured("The older name of output_config.format.type."),
    "output_format.schema": honoured("The older name of output_config.format.schema."),
    "cache_control": ignored("Every prefix is reused without marks."),
    "context_management": ignored("The conversation is used as it is sent; clearing parts would cost the prefix."),
    "betas": ignored("What is supported needs no beta flag."),
    "speed": ignored("There is one speed."),
    "thread": refused("Conversations are not kept on the server; send all messages."),
    "mcp_servers": refused("The server calls no other server; give the tools themselves.", []),
}
_ANSWER_RULES: dict[str, Rule] = {
    "max_tokens": honoured("At least 1; lowered to what the context has room for."),
    "stream": honoured("Both forms of a reply have the same content."),
    "temperature": honoured("0 to 2; 0 is greedy. Without it the operator's default applies."),
    "top_p": honoured("0 to 1."),
    "top_k": honoured("0 is off."),
    "stop_sequences": honoured("At most 64 strings, matched in the text; they are not part of the answer."),
    "metadata": ignored("`user_id` tells the vendor who asks; nothing about persons is kept here."),
    "container": refused("The server runs no code."),
    "compaction": refused("A compaction block can't be made here; ask for a summary in a message."),
    "fallbacks": ignored("No model declines a request for policy reasons."),
    "fallback_credit_token": ignored("Nothing is billed."),
    "billing_policy": ignored("Nothing is billed."),
    "service_tier": ignored("There is one tier."),
    "inference_geo": ignored("The answer is computed on this machine."),
    "safeguards": ignored("Policies of the vendor's."),
    "diagnostics": ignored("/metrics shows what the cache did."),
    "user_profile_id": ignored("Accounts of the vendor's."),
    "workspace_id": ignored("Accounts of the vendor's."),
}

MESSAGES = FieldTable(
    "post",
    "/v1/messages",
    "An answer to a conversation",
    MessagesBody,
    {**_PROMPT_RULES, **_ANSWER_RULES},
)
# Clients count with the body that they are going to send, so what belongs to the answer is no fault.
COUNT = FieldTable(
    "post",
    "/v1/messages/count_tokens",
    "How many tokens the prompt of a conversation has",
    CountBody,
    {**_PROMPT_RULES, **{name: ignored("Says nothing about the prompt.") for name in _ANSWER_RULES}},
)
