"""POST /v1/chat/completions: the body, the rule of every field, and the works that it asks for.

Contract: `CHAT.read` gives a `ChatRequest`, `chat_works` its works, one for each of the `n` answers. The replies are
made in `chat_reply`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from ..errors import HTTPError
from ..fields import Body, FieldTable, honoured, ignored, refused
from ..work import OutputFormat, Thinking, Work
from .messages import ChatMessage, chat_messages
from .params import GENERATION_RULES, Generation, guided_output, sampling_of, stops_of
from .shapes import MESSAGES_SCHEMA
from .tools import Function, JsonSchemaFormat, check_tools, format_of, tool_choice_of, tool_of

__all__ = ["CHAT", "ChatRequest", "Effort", "chat_works", "max_tokens_of", "thinking_of"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatTool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class ResponseFormat(Body):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ChatRequest(Generation):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], WithJsonSchema(MESSAGES_SCHEMA)] = Field(min_length=1)
    tools: list[ChatTool] | None = Field(None, max_length=1024)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = Field(None, ge=-1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=-1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    reasoning_effort: Effort | None = None
    thinking_budget: int | None = Field(None, ge=0, le=2**31 - 1)
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs the last message to be the assistant's")
        return self


_MESSAGE_RULES = {
    "messages[].role": honoured("system, developer (the same as system), user, assistant or tool."),
    "messages[].content": honoured("Text, or text parts, which are joined; images, audio and files are refused."),
    "messages[].name": honoured("Given to the chat template."),
    "messages[].tool_calls[].id": honoured("Joins a call and its result."),
    "messages[].tool_calls[].type": honoured("function."),
    "messages[].tool_calls[].function.name": honoured("Given to the chat template."),
    "messages[].tool_calls[].function.arguments": honoured("JSON text of an object, or the object."),
    "messages[].tool_call_id": honoured("The template is given the name of the function that was called."),
    "messages[].reasoning_content": honoured("Given to the chat template, which decides how much of it is kept."),
    "messages[].reasoning": honoured("mlx-lm's name for `reasoning_content`."),
    "messages[].refusal": honoured("An assistant's refusal without content is its text."),
    "messages[].audio": refused("the models of this server read text"),
    "messages[].function_call": refused("use tool_calls"),
}

CHAT = FieldTable(
    "POST",
    "/v1/chat/completions",
    "An answer to a conversation",
    ChatRequest,
    {
        **_MESSAGE_RULES,
        **GENERATION_RULES,
        "tools[].type": honoured("function; other kinds of tools are refused."),
        "tools[].function.name": honoured("1 to 256 characters, each name once."),
        "tools[].function.description": honoured("Given to the chat template."),
        "tools[].function.parameters": honoured("A JSON schema of an object."),
        "tools[].function.strict": honoured("true: the arguments are held to the schema by grammar, also with auto."),
        "tool_choice": honoured("none, auto, required or a function; the last two by grammar, in every format."),
        "parallel_tool_calls": honoured("false: the answer ends with its first call, in every format."),
        "response_format.type": honoured("text, json_object or json_schema."),
        "response_format.json_schema.name": honoured("It has no effect on the answer."),
        "response_format.json_schema.description": honoured("It has no effect on the answer."),
        "response_format.json_schema.schema": honoured("Held by grammar."),
        "response_format.json_schema.strict": honoured(
            "true: a schema that cannot be held in full is refused. Otherwise any object is held in its place."
        ),
        "max_tokens": honoured("Old name of `max_completion_tokens`."),
        "max_completion_tokens": honoured("Reasoning included; lowered to the context's room; -1 is no limit."),
        "logprobs": honoured("Log-probabilities of the answer's tokens, streamed too."),
        "top_logprobs": honoured("0 to 20, with `logprobs`."),
        "reasoning_effort": honoured("Given to the chat template; none turns reasoning off where the model can."),
        "thinking_budget": honoured("At most this many tokens of reasoning."),
        "chat_template_kwargs": honoured("mlx-lm's; variables for the chat template."),
        "continue_final_message": honoured("vLLM's; the answer goes on with the last assistant message."),
        "add_generation_prompt": refused("it is added unless `continue_final_message` is set", True),
        "add_special_tokens": refused("the chat template writes them", False),
        "chat_template": refused("templates are the operator's"),
        "documents": refused("give them as messages or in `chat_template_kwargs`", []),
        "role_mapping": refused("roles are written by the chat template"),
        "echo": refused("use /v1/completions", False),
        "functions": refused("use `tools`", []),
        "function_call": refused("use `tool_choice`"),
        "modalities": refused("answers are text", ["text"]),
        "audio": refused("answers are text"),
        "web_search_options": refused("this server fetches nothing"),
        "store": refused("nothing is stored", False),
        "prediction": ignored("It changes the speed alone, not the answer; prefixes and drafts are found without it."),
        "metadata": ignored("It belongs to stored completions, and nothing is stored."),
        "verbosity": ignored("No open model has such a control; ask for it in the prompt."),
    },
)


def chat_works(body: ChatRequest) -> list[Work]:
    """One work for each answer; HTTPError for values that are wrong or contradict each other."""
    tools = check_tools([tool_of(tool.function) for tool in body.tools or ()])
    choice = tool_choice_of(body.tool_choice, tools, body.parallel_tool_calls)
    output = _output(body)
    messages = chat_messages(body.messages)
    return [
        Work(
            model=body.model,
            messages=messages,
            tools=tools,
            tool_choice=choice,
            sampling=sampling_of(body, index),
            max_tokens=max_tokens_of(body.max_tokens, body.max_completion_tokens),
            stop=stops_of(body),
            thinking=thinking_of(body.reasoning_effort, body.thinking_budget),
            output=output,
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            prefill=body.continue_final_message,
            adapter=body.adapters,
            template_kwargs=body.chat_template_kwargs or {},
            min_tokens=body.min_tokens,
            ignore_eos=body.ignore_eos,
        )
        for index in range(body.n)
    ]


def _output(body: ChatRequest) -> OutputFormat:
    guided = guided_output(body)
    if body.response_format is None or body.response_format.type == "text":
        return guided or OutputFormat()
    if guided is not None:
        raise HTTPError(400, "response_format and a guided field cannot both be given.", param="response_format")
    return format_of(body.response_format.type, body.response_format.json_schema, "response_format.json_schema")


def max_tokens_of(old: int | None, new: int | None) -> int | None:
    """The limit by its two names; -1 is no limit. HTTPError for 0, and for two limits that differ."""
    if old is not None and new is not None and old != new:
        raise HTTPError(400, "max_tokens and max_completion_tokens differ; give one.", param="max_tokens")
    limit = old if new is None else new
    if limit == 0:
        raise HTTPError(400, "max_tokens must be at least 1 (or -1 for no limit).", param="max_tokens")
    return None if limit == -1 else limit


def thinking_of(effort: str | None, budget: int | None) -> Thinking:
    """OpenAI's effort in the server's words."""
    if effort is None:
        return Thinking(budget=budget)
    return Thinking(enabled=False, budget=budget) if effort == "none" else Thinking(True, budget, effort)
