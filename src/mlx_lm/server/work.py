"""What a client asks for and what comes back, in no vendor's words.

Contract: a protocol adapter turns a request body into one `Work` (or several, for `n` answers and lists of prompts)
and turns the `WorkEvent`s of its job into JSON or SSE. Everything here is frozen and plain Python; nothing knows HTTP,
engines, tokenizers or MLX. In every field None means "not said": the operator's default applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..errors import RequestError

__all__ = [
    "EndReason",
    "Finished",
    "OutputFormat",
    "Progress",
    "Reasoning",
    "SamplingSpec",
    "Started",
    "Text",
    "Thinking",
    "TokenLogprob",
    "Tool",
    "ToolArguments",
    "ToolChoice",
    "ToolEnd",
    "ToolStart",
    "TopLogprob",
    "Usage",
    "Work",
    "WorkEvent",
]

# "stop": the model ended its answer. "stop_sequence": one of `Work.stop` came (`Finished.stop_string`). "length":
# max_tokens were written. "context": the model's context is full. "tool_calls": it ended, and has called tools.
EndReason = Literal["stop", "stop_sequence", "length", "context", "tool_calls"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema of an object; `strict` enforces it.

    `in_prompt=False`: the definition stands in the messages already, so the chat template is not given it; parsers and
    grammars know the tool all the same.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False
    in_prompt: bool = True

    def as_function(self) -> dict[str, Any]:
        """The form that chat templates and parsers read."""
        function: dict[str, Any] = {"name": self.name, "parameters": dict(self.parameters)}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools are called: "auto" (the model decides), "none", "required" (one), "named" (`name`, once).

    `parallel=False` allows one call at most: the answer ends with it.
    """

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True)
class SamplingSpec:
    """How tokens are chosen, under the names and ranges of `mlx_lm.sampling`.

    A penalty's context size is how many of the latest tokens count (0: all). `logit_bias` maps token ids to what is
    added to their logits.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    repetition_penalty: float | None = None
    repetition_context_size: int | None = None
    presence_penalty: float | None = None
    presence_context_size: int | None = None
    frequency_penalty: float | None = None
    frequency_context_size: int | None = None
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None


@dataclass(frozen=True)
class OutputFormat:
    """What the answer (not its reasoning) must look like.

    `value` is the JSON schema ("json_schema"), the pattern ("regex"), the list of strings ("choice") or the Lark
    grammar ("grammar"); None for "text" and "json_object". `strict=False` lets a schema be relaxed where it cannot be
    enforced; otherwise such a schema is refused by name.
    """

    kind: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"] = "text"
    value: Any = None
    strict: bool = True


@dataclass(frozen=True)
class Thinking:
    """Reasoning: on or off, at most `budget` tokens of it (hard), and an effort that the chat template may know.

    `effort` is given to the template as `reasoning_effort`. A model without reasoning ignores `enabled` and `effort`;
    a budget without reasoning is kept by itself.
    """

    enabled: bool | None = None
    budget: int | None = None
    effort: str | None = None


@dataclass(frozen=True)
class Work:
    """One answer to be written.

    Attributes:
        model: as the client named it; None is the default model.
        messages: chat in the chat template's form: {"role", "content": str, and where they apply "tool_calls":
            [{"id", "type": "function", "function": {"name", "arguments": dict}}], "tool_call_id", "name",
            "reasoning_content"}. Exactly one of `messages` and `prompt` is set.
        prompt: raw completion: text, or token ids.
        tools: what may be called; with `tool_choice.mode == "none"` they are still shown to the template.
        max_tokens: at most this many new tokens; None: up to the operator's limit or the end of the context.
        stop: strings that end the answer, and are not part of it.
        top_logprobs: None: no log-probabilities; 0: of the chosen token; n: and of the n likeliest.
        echo: the answer begins with the prompt; with `top_logprobs`, its tokens are scored too (raw prompts only).
        prefill: the last message is the assistant's, and is continued.
        adapter: a LoRA adapter by the name that the operator gave it.
        cache_salt: work of different salts shares no prefix cache; the app sets it from the client's key.
        priority: higher goes first.
        timeout: seconds until the job fails with DeadlineError; the operator's limit also applies.
        template_kwargs: variables for the chat template.
        clamp: a `max_tokens` for which the context has no room is lowered to what fits; with False it raises
            ContextLengthError. A prompt that leaves no room at all always raises it.
        min_tokens: the answer does not end by itself before this many tokens.
        ignore_eos: end tokens do not end the answer.
        request_id: for logs.
    """

    model: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    sampling: SamplingSpec = SamplingSpec()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    thinking: Thinking = Thinking()
    output: OutputFormat = OutputFormat()
    top_logprobs: int | None = None
    echo: bool = False
    prefill: bool = False
    adapter: str | None = None
    cache_salt: str = ""
    priority: int = 0
    timeout: float | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    clamp: bool = True
    min_tokens: int = 0
    ignore_eos: bool = False
    request_id: str = ""

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise RequestError("Exactly one of messages and prompt must be given.")


# What comes back.


@dataclass(frozen=True)
class TopLogprob:
    """A likely token: its text alone (which may be half a character), its bytes, its log-probability."""

    token_id: int
    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer, with the likeliest in its place in falling order.

    `logprob` is None for the first token of an echoed prompt. `offset` is where its text begins in the text so far.
    """

    token_id: int
    text: str
    bytes: bytes
    logprob: float | None
    top: tuple[TopLogprob, ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Usage:
    """True counts. `completion_tokens` include the reasoning's; `cached_tokens` are part of the prompt's."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Progress:
    """While the prompt is computed: tokens done of all. For keep-alive comments; may not come at all."""

    done: int
    total: int


@dataclass(frozen=True)
class Started:
    """The prompt is computed; the answer begins. Always comes once, before what follows."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Text:
    """A piece of the answer; it may be empty when it only carries log-probabilities."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Reasoning:
    """A piece of the reasoning; log-probabilities as in `Text`."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ToolStart:
    """A tool call begins; `index` counts the calls of the answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolArguments:
    """The next piece of the arguments' JSON text."""

    index: int
    json_fragment: str


@dataclass(frozen=True)
class ToolEnd:
    """The call is complete: its fragments joined are one JSON object.

    `failed=True`: it turned out to be malformed and was no call. It does not count for the finish reason, and its
    source comes as `Text` next, so that nothing that the model wrote is lost.
    """

    index: int
    failed: bool = False


@dataclass(frozen=True)
class Finished:
    """The last event."""

    reason: EndReason
    usage: Usage
    stop_string: str | None = None


WorkEvent: TypeAlias = Progress | Started | Text | Reasoning | ToolStart | ToolArguments | ToolEnd | Finished
