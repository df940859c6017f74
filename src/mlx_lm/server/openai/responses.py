"""POST /v1/responses: the body, the rule of every field, and the work that it asks for.

Contract: `RESPONSES.read` gives a `ResponsesRequest`, `response_work` its work. Nothing is stored: a client sends the
whole conversation in `input`, reasoning items included if it wants them seen. The replies are made in
`responses_reply`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from ..errors import HTTPError
from ..fields import Body, FieldTable, honoured, ignored, refused
from ..work import OutputFormat, SamplingSpec, Work
from .chat import Effort, max_tokens_of, thinking_of
from .params import Probability, StreamOptions
from .response_items import input_messages
from .shapes import INPUT_SCHEMA
from .tools import Function, JsonSchemaFormat, check_tools, format_of, tool_choice_of, tool_of

__all__ = ["RESPONSES", "ResponsesRequest", "response_work", "wants_logprobs"]

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"


class ReasoningOptions(Body):
    """How much to reason."""

    effort: Effort | None = None


class TextFormat(JsonSchemaFormat):
    """The format of the answer; a schema's fields stand beside its type."""

    type: Literal["text", "json_object", "json_schema"]


class TextOptions(Body):
    """Options of the answer's text."""

    format: TextFormat | None = None


class ResponseTool(Function):
    """A function; other kinds of tools are refused."""

    type: Literal["function"]


class ResponsesRequest(Body):
    """Body of POST /v1/responses."""

    model: str | None = Field(None, max_length=512)
    input: Annotated[str | list[dict[str, Any]], WithJsonSchema(INPUT_SCHEMA)]
    instructions: str | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=1024)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0)
    top_p: Probability | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    metadata: dict[str, str] | None = Field(None, max_length=64)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None


RESPONSES = FieldTable(
    "POST",
    "/v1/responses",
    "An answer to a list of items",
    ResponsesRequest,
    {
        "model": honoured("An id or alias of /v1/models; without it the default model answers."),
        "input": honoured(
            "Text, or items: messages, function_call, function_call_output and reasoning. Images, files, items of "
            "built-in tools and item references are refused."
        ),
        "instructions": honoured("A system message before everything else."),
        "tools[].type": honoured("function; built-in and custom tools are refused."),
        "tools[].name": honoured("1 to 256 characters, each name once."),
        "tools[].description": honoured("Given to the chat template."),
        "tools[].parameters": honoured("A JSON schema of an object."),
        "tools[].strict": honoured("true: the arguments are held to the schema by grammar. Without it: false."),
        "tool_choice": honoured("none, auto, required or a function; the last two by grammar, in every format."),
        "parallel_tool_calls": honoured("false: the answer ends with its first call, in every format."),
        "text.format.type": honoured("text, json_object or json_schema."),
        "text.format.name": honoured("It has no effect on the answer."),
        "text.format.description": honoured("It has no effect on the answer."),
        "text.format.schema": honoured("Held by grammar."),
        "text.format.strict": honoured("true: a schema that cannot be held is refused; else any object is held."),
        "text.verbosity": ignored("No open model has such a control; ask for it in the prompt."),
        "reasoning.effort": honoured("Given to the chat template; none turns reasoning off where the model can."),
        "reasoning.summary": ignored("The reasoning itself is given, in full, in reasoning items."),
        "reasoning.generate_summary": ignored("The reasoning itself is given, in full, in reasoning items."),
        "reasoning.context": refused("the chat template decides which reasoning stays", "auto"),
        "reasoning.mode": refused("there is one mode", "standard"),
        "max_output_tokens": honoured("Reasoning included; lowered to what the context has room for."),
        "temperature": honoured("0 or more; 0 is greedy. Without it the operator's default applies."),
        "top_p": honoured("0 to 1."),
        "top_logprobs": honoured("0 to 20; turns log-probabilities on."),
        "include": honoured(f"`{_LOGPROBS}` turns log-probabilities on; `{_ENCRYPTED}` changes nothing, as reasoning "
                            "comes in plain text. Others are refused."),
        "metadata": honoured("Given back in the response; nothing is stored."),
        "user": honoured("Given back in the response."),
        "stream": honoured("Typed events, from response.created to response.completed."),
        "stream_options.include_usage": honoured("The last event's response always carries the usage."),
        "stream_options.include_obfuscation": ignored("Nothing is padded."),
        "store": refused("nothing is stored", False),
        "previous_response_id": refused("nothing is stored; send the whole conversation in `input`"),
        "conversation": refused("nothing is stored; send the whole conversation in `input`"),
        "background": refused("nothing is stored; use a stream", False),
        "background_options": refused("nothing is stored; use a stream"),
        "prompt": refused("nothing is stored; send `instructions`"),
        "truncation": refused("nothing is cut silently; a prompt that is too long is an error", "disabled"),
        "context_management": refused("nothing is cut or compacted silently", []),
        "max_tool_calls": ignored("It counts calls of built-in tools, and there are none."),
        "image": refused("answers are text"),
        "moderation": refused("there is no moderation model"),
        "access_programs": refused("there are none"),
        "service_tier": ignored("There is one tier."),
        "safety_identifier": ignored("It changes no answer."),
        "prompt_cache_key": ignored("Prefixes are found by their content."),
        "prompt_cache_options": ignored("Prefixes are found by their content."),
        "prompt_cache_retention": ignored("The operator's cache budget decides."),
    },
)  # fmt: skip


def wants_logprobs(body: ResponsesRequest) -> bool:
    """Whether log-probabilities are part of the reply."""
    return body.top_logprobs is not None or _LOGPROBS in (body.include or ())


def response_work(body: ResponsesRequest) -> Work:
    """The work; HTTPError for values that are wrong or contradict each other."""
    tools = check_tools([tool_of(tool) for tool in body.tools or ()])
    messages = input_messages(body.input, body.instructions)
    if not messages:
        raise HTTPError(400, "input must not be empty.", param="input")
    effort = body.reasoning.effort if body.reasoning else None
    return Work(
        model=body.model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice_of(body.tool_choice, tools, body.parallel_tool_calls),
        sampling=SamplingSpec(temperature=body.temperature, top_p=body.top_p),
        max_tokens=max_tokens_of(None, body.max_output_tokens),
        thinking=thinking_of(effort, None),
        output=_output(body),
        top_logprobs=(body.top_logprobs or 0) if wants_logprobs(body) else None,
    )


def _output(body: ResponsesRequest) -> OutputFormat:
    if body.text is None or body.text.format is None:
        return OutputFormat()
    return format_of(body.text.format.type, body.text.format, "text.format.schema")
