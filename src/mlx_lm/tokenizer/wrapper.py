"""`TokenizerWrapper`: what `load()` returns next to the model, and what every part of mlx_lm talks to.

Contract: behaves like the Hugging Face tokenizer that dependants expect (attribute reads and writes go through to the
tokenizer inside), and adds what generation needs: a set of end-of-text ids, streaming detokenizers, a chat template
that runs in a sandbox, and the markers of reasoning and tool calls. The tokenizer inside is our `FastTokenizer`
or any transformers tokenizer.

`_tokenizer` is a real transformers tokenizer where transformers is installed, because Outlines, llguidance and
xgrammar check its class; it is built on first use. Where transformers is not installed it is the `FastTokenizer`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlx_lm.errors import ChatTemplateError, TokenizerError
from mlx_lm.tokenizer.chat_template import ChatTemplate, choose_template, named_templates
from mlx_lm.tokenizer.detokenize import (
    NaiveStreamingDetokenizer,
    SpmDecoder,
    SPMStreamingDetokenizer,
    StreamingDetokenizer,
    read_decoder,
)
from mlx_lm.tokenizer.fast import FastTokenizer
from mlx_lm.tokenizer.markers import find_thinking, may_reason

if TYPE_CHECKING:
    from mlx_lm.tokenizer.parsers import ParserChoice

__all__ = ["TokenizerWrapper", "pick_detokenizer"]


def pick_detokenizer(tokenizer: Any) -> StreamingDetokenizer:
    """The detokenizer that streams `tokenizer` exactly: by its decoder, else the general one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    plan = read_decoder(decoder.__getstate__().decode("utf-8")) if decoder is not None else None
    if isinstance(plan, SpmDecoder):
        return SPMStreamingDetokenizer(tokenizer, decoder=plan)
    return plan(tokenizer) if plan is not None else NaiveStreamingDetokenizer(tokenizer)


class _Vocabulary:
    """`token in vocabulary`, without building a dict of all tokens."""

    def __init__(self, owner: TokenizerWrapper) -> None:
        self._owner = owner

    def __contains__(self, token: object) -> bool:
        return isinstance(token, str) and self._owner._token_id(token) is not None


class TokenizerWrapper:
    """Wraps a tokenizer for generation.

    Args:
        tokenizer: a `FastTokenizer`, a transformers tokenizer, or a wrapper (whose tokenizer is taken).
        detokenizer_class: called with the tokenizer; None picks the exact one for its decoder.
        eos_token_ids: id or ids that end generation; None takes the tokenizer's `eos_token_id`.
        chat_template: replaces the tokenizer's own template.
        tool_call_start, tool_call_end: replace the markers found in the chat template.
        tool_parser: turns the text of a tool call into its name and arguments.
    """

    def __init__(
        self,
        tokenizer: Any,
        detokenizer_class: Callable[[Any], Any] | None = None,
        eos_token_ids: int | Iterable[int] | None = None,
        chat_template: str | None = None,
        tool_call_start: str | None = None,
        tool_call_end: str | None = None,
        tool_parser: Callable[..., Any] | None = None,
    ) -> None:
        inner = tokenizer._inner if isinstance(tokenizer, TokenizerWrapper) else tokenizer
        self._inner = inner
        self._transformers: Any = None if isinstance(inner, FastTokenizer) else inner
        self._detokenizer_class = detokenizer_class
        self._prototype: Any = None
        self._compiled: dict[str, ChatTemplate] = {}
        self._thinking: tuple[str, str] | bool | None = False  # False: not looked up yet
        self._tool_calls = None if tool_call_start is None else (tool_call_start, tool_call_end or "")
        self._tool_parser = tool_parser
        self._parsers: tuple[tuple[str, Any], ParserChoice] | None = None
        self.eos_token_ids = eos_token_ids
        if chat_template is not None:
            self.chat_template = chat_template

    # -- the tokenizer inside

    @property
    def _tokenizer(self) -> Any:
        if self._transformers is None:
            if importlib.util.find_spec("transformers") is None:
                return self._inner
            self._transformers = self._inner.to_transformers()
        return self._transformers

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
            return
        setattr(self._inner, name, value)
        if self._transformers is not None and self._transformers is not self._inner:
            setattr(self._transformers, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner(*args, **kwargs)

    def __len__(self) -> int:
        return len(self._inner)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"TokenizerWrapper({type(self._inner).__name__}, {len(self)} tokens, eos_token_ids={self.eos_token_ids})"

    # -- end of text

    @property
    def eos_token_ids(self) -> set[int]:
        """The ids that end generation."""
        return self._eos_token_ids

    @eos_token_ids.setter
    def eos_token_ids(self, value: int | Iterable[int] | None) -> None:
        if value is None:
            value = self._inner.eos_token_id
        ids = [] if value is None else [value] if isinstance(value, int) else list(value)
        self._eos_token_ids = {int(index) for index in ids}

    def add_eos_token(self, token: str | int) -> None:
        """Adds an id (a number, also in a string) or the text of a single token to those that end generation."""
        text = str(token).strip() if isinstance(token, int) or token.strip().isdecimal() else ""
        index: int | None = int(text) if text else self._inner.get_vocab().get(str(token))
        if index is None or index < 0:
            raise TokenizerError(f"{token!r} is not one token of this model.")
        self._eos_token_ids.add(index)

    # -- streaming

    @property
    def detokenizer(self) -> Any:
        """A fresh streaming detokenizer on every access."""
        if self._prototype is None:
            if self._detokenizer_class is None:
                self._prototype = pick_detokenizer(self._inner)
            else:
                self._prototype = self._detokenizer_class(self._inner)
        if isinstance(self._prototype, StreamingDetokenizer):
            return self._prototype.fresh()
        return self._detokenizer_class(self._inner) if self._detokenizer_class else self._prototype

    # -- chat

    @property
    def _templates(self) -> dict[str, str]:
        if isinstance(self._inner, FastTokenizer):
            return self._inner.chat_templates
        return named_templates(getattr(self._inner, "chat_template", None), type(self._inner).__name__)

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The template's source; a dict when there are several; None when there is none."""
        templates = self._templates
        return templates["default"] if list(templates) == ["default"] else (dict(templates) or None)

    @chat_template.setter
    def chat_template(self, value: Any) -> None:
        if isinstance(self._inner, FastTokenizer):
            self._inner.chat_templates = named_templates(value, "chat_template")
            if self._transformers is not None:
                self._transformers.chat_template = value
        else:
            self._inner.chat_template = value
        self._thinking = False

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The template that `apply_chat_template` uses. Raises ValueError when there is none."""
        return choose_template(self._templates, chat_template, bool(tools))

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        *,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Renders messages with the chat template: list[int], or str for `tokenize=False`; a batch gives a list.

        `kwargs` are variables of the template. `enable_thinking` (or `thinking`, where the template reads that) is
        `has_thinking` unless given. Raises ChatTemplateError.
        """
        if return_dict or kwargs.pop("return_tensors", None) is not None:
            raise ChatTemplateError(
                "apply_chat_template gives token ids or text: return_dict and return_tensors can't be set."
            )
        if conversation and isinstance(conversation[0], list | tuple):
            options = {"truncation": truncation, "max_length": max_length, **kwargs}
            shared = (tools, documents, chat_template, add_generation_prompt, continue_final_message, tokenize)
            return [self.apply_chat_template(chat, *shared, **options) for chat in conversation]
        source = self.get_chat_template(chat_template, tools)
        template = self._compiled.get(source)
        if template is None:
            template = self._compiled.setdefault(source, ChatTemplate(source))
        if "enable_thinking" not in kwargs and "thinking" not in kwargs:
            kwargs[self._thinking_variable(template)] = self.has_thinking
        text = template.render(
            conversation,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables={**self._inner.special_tokens_map, **kwargs},
        )
        if not tokenize:
            return text
        return self._inner.encode(text, add_special_tokens=False, truncation=truncation, max_length=max_length)

    @staticmethod
    def _thinking_variable(template: ChatTemplate) -> str:
        names = template.variables
        return "thinking" if "thinking" in names and "enable_thinking" not in names else "enable_thinking"

    # -- reasoning and tool calls

    def _token_id(self, text: str) -> int | None:
        backend = getattr(self._inner, "backend_tokenizer", None)
        return backend.token_to_id(text) if backend is not None else self._inner.get_vocab().get(text)

    @property
    def _template_text(self) -> str:
        return "\n".join(self._templates.values())

    @property
    def _thinking_pair(self) -> tuple[str, str] | None:
        if isinstance(self._thinking, bool):
            self._thinking = find_thinking(self._token_id, self._template_text) or self._style_pair()
        return self._thinking

    def _style_pair(self) -> tuple[str, str] | None:
        if not may_reason(self._token_id, self._template_text):
            return None
        from mlx_lm.tokenizer.parsers import choose_parsers

        style = choose_parsers(self._template_text, _Vocabulary(self)).reasoning
        return None if style is None else (style.start, style.end)

    @property
    def parsers(self) -> ParserChoice:
        """How the model writes reasoning and tool calls. Raises TokenizerError for an unknown `tool_parser_type`."""
        from mlx_lm.tokenizer.parsers import choose_parsers  # 25 dialects: imported when one is asked for

        override = getattr(self._inner, "init_kwargs", {}).get("tool_parser_type")
        key = (self._template_text, override)
        if self._parsers is None or self._parsers[0] != key:
            self._parsers = (key, choose_parsers(self._template_text, _Vocabulary(self), override))
        return self._parsers[1]

    @property
    def has_thinking(self) -> bool:
        """Whether the model has markers around its reasoning."""
        return self._thinking_pair is not None

    @property
    def think_start(self) -> str | None:
        return self._thinking_pair[0] if self._thinking_pair else None

    @property
    def think_end(self) -> str | None:
        return self._thinking_pair[1] if self._thinking_pair else None

    @property
    def think_start_id(self) -> int | None:
        """The marker's id where it is one token."""
        return self._single(self.think_start_tokens)

    @property
    def think_end_id(self) -> int | None:
        return self._single(self.think_end_tokens)

    @property
    def think_start_tokens(self) -> tuple[int, ...] | None:
        return self._ids(self.think_start)

    @property
    def think_end_tokens(self) -> tuple[int, ...] | None:
        return self._ids(self.think_end)

    @property
    def has_tool_calling(self) -> bool:
        """Whether the chat template writes tool calls in a known form."""
        return self._tool_pair is not None

    @property
    def _tool_pair(self) -> tuple[str, str] | None:
        tools = self.parsers.tools if self._tool_calls is None else None
        return self._tool_calls if tools is None else (tools.start, tools.end)

    @property
    def tool_call_start(self) -> str | None:
        return self._tool_pair[0] if self._tool_pair else None

    @property
    def tool_call_end(self) -> str | None:
        """An empty string where a call ends with the turn."""
        return self._tool_pair[1] if self._tool_pair else None

    @property
    def tool_call_start_tokens(self) -> tuple[int, ...] | None:
        return self._ids(self.tool_call_start)

    @property
    def tool_call_end_tokens(self) -> tuple[int, ...] | None:
        return self._ids(self.tool_call_end)

    @property
    def tool_parser(self) -> Callable[..., Any] | None:
        """Called with the text between the markers, and the tools; gives the call's name and arguments."""
        if self._tool_parser is not None or self._tool_calls is not None or self.parsers.tools is None:
            return self._tool_parser
        from mlx_lm.tokenizer.parsers import ToolCallReader

        return ToolCallReader(self.parsers.tools)

    def _ids(self, text: str | None) -> tuple[int, ...] | None:
        return None if text is None else tuple(self._inner.encode(text, add_special_tokens=False))

    @staticmethod
    def _single(ids: tuple[int, ...] | None) -> int | None:
        return ids[0] if ids is not None and len(ids) == 1 else None

    # -- look-ups spelled out, so that editors and type checkers see them

    def encode(self, text: str, add_special_tokens: bool = True, **kwargs: Any) -> list[int]:
        """The ids of `text`. Nothing is cut unless `truncation=True`."""
        return self._inner.encode(text, add_special_tokens=add_special_tokens, **kwargs)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """The text of one id or a sequence of ids."""
        return self._inner.decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def get_vocab(self) -> Mapping[str, int]:
        return self._inner.get_vocab()
