"""From a `Work` to the tokens of its prompt, and how its answer is to be read. Does no MLX work; safe in any thread.

Contract: everything that can be wrong with messages, tools or limits is raised here, before the engine sees anything.
This module does not know HTTP or engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ContextLengthError, RequestError, UnsupportedError
from ..grammar import Constraint
from ..tokenizer.parsers import ParserChoice, ThinkingBudget, prompt_opens_thinking, tool_format
from .calls import marked_only
from .plain_tools import PLAIN_FORMAT, knows_tools, with_plain_tools
from .structure import constraint_of, enforces_calls
from .work import Work

__all__ = ["ChatStyle", "Prepared", "prepare", "prompt_tokens"]

# For models without a template, when the operator asked for one; its turns end where the user's next would begin.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PLAIN_STOP = "\nUser:"


@dataclass(frozen=True)
class ChatStyle:
    """How one model's prompts are made: its tokenizer, and what the operator set.

    Attributes:
        tokenizer: a `TokenizerWrapper`.
        context_length: tokens of prompt and answer together; None where nothing limits them.
        vocabulary: rows of the model's output, for token ids from outside.
        template: in place of the model's own; None for that.
        variables: for the template.
        max_tokens: of an answer whose request sets no limit.
    """

    tokenizer: Any
    context_length: int | None
    vocabulary: int
    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A prompt that fits, and how what follows it is to be read.

    Attributes:
        tokens: the prompt.
        text: the prompt's text where it is known (chat and text prompts), for `echo`.
        max_tokens: of the answer; None is up to the end of the context.
        asked: whether `max_tokens` is the request's or the operator's wish, and not only the room that is left.
        stop: stop strings.
        parsers: what to look for in the answer; None for raw text.
        in_reasoning: the prompt leaves reasoning open.
        budget: the limit of reasoning, or None.
        constraint: what the answer must be, or None.
    """

    tokens: tuple[int, ...]
    text: str
    max_tokens: int | None
    asked: bool
    stop: tuple[str, ...]
    parsers: ParserChoice | None
    in_reasoning: bool
    budget: ThinkingBudget | None
    constraint: Constraint | None = None


def prepare(work: Work, style: ChatStyle) -> Prepared:
    """Renders, encodes and checks.

    Raises:
        RequestError: a value is out of range.
        ChatTemplateError: the template refused the messages.
        ContextLengthError: there is no room for the answer.
        UnsupportedError: the model has no chat template, or its calls cannot be enforced.
        GrammarError: what the answer must be cannot be enforced.
    """
    _check(work)
    text, tokens = _encode(work, style)
    limit, asked = _limit(work, style, len(tokens))
    stop = (*work.stop, _PLAIN_STOP) if style.template == PLAIN_TEMPLATE and work.messages is not None else work.stop
    if work.messages is None:
        _refuse_raw(work)
        constraint = constraint_of(work, style.tokenizer, tokens, None)
        return Prepared(tokens, text, limit, asked, stop, None, False, None, constraint)
    choice = _parsers(work, style)
    opened = choice.reasoning is not None and prompt_opens_thinking(text, choice.reasoning.start)
    budget = _budget(work, style, choice, opened)
    constraint = constraint_of(work, style.tokenizer, tokens, choice.tools)
    if choice.tools is not None and enforces_calls(work):  # a call is only where the grammar has one
        bare = None if marked_only(choice.tools) else choice.tools.bare
        choice = replace(choice, tools=replace(choice.tools, bare=bare, ends_reasoning=False))
    return Prepared(tokens, text, limit, asked, stop, choice, opened, budget, constraint)


def prompt_tokens(work: Work, style: ChatStyle) -> int:
    """Tokens of the prompt, whether it fits or not."""
    return len(_encode(work, style)[1])


def _check(work: Work) -> None:
    for text in work.stop:
        if not isinstance(text, str) or not text:
            raise RequestError(f"stop must be a list of non-empty strings, not {text!r}.")
    least = 0 if work.echo else 1
    if work.max_tokens is not None and work.max_tokens < least:
        raise RequestError(f"max_tokens must be at least {least}, not {work.max_tokens}.")
    if work.min_tokens < 0:
        raise RequestError(f"min_tokens must be at least 0, not {work.min_tokens}.")
    if work.top_logprobs is not None and not 0 <= work.top_logprobs <= 100:
        raise RequestError(f"top_logprobs must be between 0 and 100, not {work.top_logprobs}.")
    if work.thinking.budget is not None and work.thinking.budget < 0:
        raise RequestError(f"The thinking budget must be at least 0 tokens, not {work.thinking.budget}.")
    if work.timeout is not None and work.timeout <= 0:
        raise RequestError(f"timeout must be more than 0 seconds, not {work.timeout}.")
    if work.echo and work.prompt is None:
        raise RequestError("echo is for raw prompts; a chat's prompt cannot be echoed.")


def _encode(work: Work, style: ChatStyle) -> tuple[str, tuple[int, ...]]:
    """The prompt as text and as tokens."""
    if work.messages is not None:
        text = _render(work, style)
        tokens = style.tokenizer.encode(text, add_special_tokens=style.template == PLAIN_TEMPLATE)
    elif isinstance(work.prompt, str):
        text = work.prompt
        bos = style.tokenizer.bos_token
        tokens = style.tokenizer.encode(text, add_special_tokens=bos is None or not text.startswith(bos))
    else:
        tokens = work.prompt or ()
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < style.vocabulary:
                raise RequestError(f"prompt holds {token!r}, which is no token id below {style.vocabulary}.")
        text = style.tokenizer.decode(list(tokens)) if work.echo else ""
    if not tokens:
        raise RequestError("The prompt is empty: at least one token is needed to continue from.")
    return text, tuple(tokens)


def _render(work: Work, style: ChatStyle) -> str:
    if not work.messages:
        raise RequestError("messages must hold at least one message.")
    tokenizer = style.tokenizer
    if style.template is None and not tokenizer.has_chat_template:
        raise UnsupportedError("This model has no chat template; use the completions endpoint with a raw prompt.")
    variables = {**style.variables}
    if work.thinking.enabled is not None:
        variables |= {"enable_thinking": work.thinking.enabled, "thinking": work.thinking.enabled}
    if work.thinking.effort is not None:
        variables["reasoning_effort"] = work.thinking.effort
    variables |= work.template_kwargs
    messages: list[Any] = list(work.messages)
    shown = [tool.as_function() for tool in work.tools if tool.in_prompt]
    if not knows_tools(_source(style)):
        messages, shown = with_plain_tools(messages, work.tools), []
    return tokenizer.apply_chat_template(
        messages,
        tools=shown or None,
        chat_template=style.template,
        add_generation_prompt=not work.prefill,
        continue_final_message=work.prefill,
        tokenize=False,
        **_safe(variables),
    )


_RESERVED = ("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize")
_RESERVED_TOO = ("continue_final_message", "truncation", "max_length", "return_dict", "return_tensors")


def _safe(variables: Mapping[str, Any]) -> dict[str, Any]:
    for name in (*_RESERVED, *_RESERVED_TOO):
        if name in variables:
            raise RequestError(f"chat_template_kwargs cannot set {name!r}.")
    return dict(variables)


def _limit(work: Work, style: ChatStyle, prompt: int) -> tuple[int | None, bool]:
    """(most tokens of the answer, whether somebody asked for that many)."""
    wanted = work.max_tokens if work.max_tokens is not None else style.max_tokens
    if style.context_length is None:
        return wanted, wanted is not None
    room = style.context_length - prompt
    if room < 1 and wanted != 0:
        raise ContextLengthError(prompt, style.context_length)
    if wanted is None:
        return room, False
    if wanted > room and not work.clamp and work.max_tokens is not None:
        raise ContextLengthError(prompt + wanted, style.context_length)
    return min(wanted, room), wanted <= room


def _parsers(work: Work, style: ChatStyle) -> ParserChoice:
    choice: ParserChoice = style.tokenizer.parsers
    calls = bool(work.tools) and work.tool_choice.mode != "none"
    if calls and choice.tools is None and not knows_tools(_source(style)):
        choice = replace(choice, tools=tool_format(PLAIN_FORMAT))
    # Formats with channels write every message in the form of their calls: their reader stays.
    if not calls and choice.tools is not None and choice.tools.message is None:
        choice = replace(choice, tools=None)
    return choice


def _budget(work: Work, style: ChatStyle, choice: ParserChoice, opened: bool) -> ThinkingBudget | None:
    budget = work.thinking.budget
    if choice.reasoning is None:
        return None
    if work.thinking.enabled is False and not _knows_thinking(style):
        budget = 0  # the template cannot turn it off
    if budget is None:
        return None
    start, end = choice.reasoning.start, choice.reasoning.end
    closing = end
    if choice.reasoning.name == "harmony" and not (enforces_calls(work) and work.tool_choice.mode != "auto"):
        closing = "<|end|><|start|>assistant<|channel|>final<|message|>"  # else the grammar goes on with the call
    encode = style.tokenizer.encode
    ids = [encode(part, add_special_tokens=False) for part in (start, end, closing)]
    return ThinkingBudget(ids[0], ids[1], budget, ids[2], inside=opened)


def _refuse_raw(work: Work) -> None:
    """Refuses what only chats have."""
    if work.thinking.budget is not None:
        raise RequestError("A thinking budget is for chats; a raw prompt has no reasoning.")
    if work.tools:
        raise RequestError("tools are for chats; a raw prompt calls none.")


def _knows_thinking(style: ChatStyle) -> bool:
    text = _source(style)
    return "enable_thinking" in text or "thinking" in text


def _source(style: ChatStyle) -> str:
    """The text of the chat template; of all of them, where there are several."""
    source = style.template or style.tokenizer.chat_template
    return "\n".join(source.values()) if isinstance(source, dict) else source or ""
