"""Chat templates: where they are stored, and how a conversation becomes text.

Contract: `ChatTemplate(source).render(messages, ...)` gives the string that transformers' `apply_chat_template` gives
for the same template and arguments, inside the sandbox of `sandbox.py`. Every failure is a ChatTemplateError; a
template's own `raise_exception(message)` carries its message. The caller's messages are never changed.

`find_templates(folder, config)` reads the sources in the order in which transformers lets one win over another.

This module does not know tokenizers: special tokens come in as template variables.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_lm.errors import ChatTemplateError, TokenizerError
from mlx_lm.tokenizer.sandbox import Budget, build_environment

__all__ = ["ChatTemplate", "choose_template", "find_templates", "named_templates"]

MAX_TEMPLATE_CHARS = 500_000  # the largest in use have about 30,000
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
_CONTINUE_MARK = "\ue000CONTINUE\ue001 "  # private-use characters, and a space that shows whether the template trims


class ChatTemplate:
    """One Jinja chat template; compiled on first use, then reused. Safe to share between threads."""

    def __init__(self, source: str) -> None:
        if not isinstance(source, str):
            raise ChatTemplateError(f"A chat template must be a string, not {type(source).__name__}.")
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ChatTemplateError(f"The chat template has {len(source):,} characters; the limit is 500,000.")
        self.source = source

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import TemplateError

        try:
            return build_environment().from_string(self.source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise ChatTemplateError(
                f"The chat template is malformed{f' (line {line})' if line else ''}: {error}"
            ) from error
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
            raise ChatTemplateError(f"The chat template can't be compiled: {error}") from error

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template expects from outside, such as `tools` or `enable_thinking`."""
        from jinja2 import TemplateError, meta

        try:
            environment = build_environment()
            return frozenset(meta.find_undeclared_variables(environment.parse(self.source)))
        except (TemplateError, RecursionError, MemoryError) as error:
            raise ChatTemplateError(f"The chat template is malformed: {error}") from error

    def render(
        self,
        messages: Sequence[Any],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Renders one conversation.

        `continue_final_message` leaves the last message open, so that the model goes on with it; a string names
        the field to continue instead of `content`. Raises ChatTemplateError, or ValueError for contradicting options.
        """
        if continue_final_message and add_generation_prompt:
            raise ChatTemplateError("continue_final_message and add_generation_prompt exclude each other.")
        try:
            chat = [_reasoning_aliases(_message(m)) for m in messages]
            values = {key: _plain(value) for key, value in (variables or {}).items()}
            values["tools"] = None if tools is None else [_tool_schema(tool) for tool in tools]
            values["documents"] = None if documents is None else [_plain(d) for d in documents]
        except RecursionError as error:
            raise ChatTemplateError("The conversation is nested too deeply.") from error
        values["add_generation_prompt"] = add_generation_prompt
        if not continue_final_message:
            return self._run({"messages": chat, **values})
        field = continue_final_message if isinstance(continue_final_message, str) else "content"
        chat, final = _mark_final(chat, field)
        return _cut_at_mark(self._run({"messages": chat, **values}), final)

    def _run(self, values: dict[str, Any]) -> str:
        from jinja2 import TemplateError

        budget = Budget(_characters(values))
        try:
            with budget.active():
                return self._compiled.render(values)
        except ChatTemplateError:
            raise
        except TemplateError as error:
            raise ChatTemplateError(f"The chat template failed: {error}") from error
        except RecursionError as error:
            raise ChatTemplateError("The chat template recurses too deeply.") from error
        except MemoryError as error:
            raise ChatTemplateError("The chat template ran out of memory.") from error
        except Exception as error:  # a template can reach any error of Python's operators
            raise ChatTemplateError(f"The chat template failed: {type(error).__name__}: {error}") from error


def _plain(value: Any) -> Any:
    """A copy made of JSON types only: methods of richer objects are none of a template's business."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    for method in ("model_dump", "item"):  # pydantic models, numpy scalars
        if callable(getattr(value, method, None)) and getattr(value, "size", 1) == 1:
            return _plain(getattr(value, method)())
    return f"<{type(value).__name__}>"  # an image or an array: templates only look whether it is there


def _message(message: Any) -> dict[str, Any]:
    plain = _plain(message)
    if not isinstance(plain, dict):
        raise ChatTemplateError(f"A chat message must be a dict with a role, not {type(message).__name__}.")
    return plain


def _reasoning_aliases(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read a message's reasoning under different names; a message that has one gets those in use."""
    reasoning = next((message[name] for name in _REASONING_NAMES if message.get(name) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _tool_schema(tool: Any) -> Any:
    if callable(tool) and not hasattr(tool, "model_dump"):
        try:
            from transformers.utils import get_json_schema  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ChatTemplateError(
                "A Python function as a tool needs transformers to read its signature; pass its JSON schema instead."
            ) from error
        return _plain(get_json_schema(tool))
    return _plain(tool)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(key) + _characters(item) for key, item in value.items())
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 1


def _mark_final(chat: list[dict[str, Any]], field: str) -> tuple[list[dict[str, Any]], str]:
    """Appends the mark to the last text of the last message; returns the chat and that text."""
    if not chat or chat[-1].get(field) is None:
        raise ChatTemplateError(f"continue_final_message needs a final message with {field!r}.")
    final = dict(chat[-1])
    content = final[field]
    if isinstance(content, list | tuple):
        parts = [dict(part) if isinstance(part, dict) else part for part in content]
        text_part = next((part for part in reversed(parts) if isinstance(part, dict) and "text" in part), None)
        if text_part is None:
            raise ChatTemplateError("continue_final_message needs text in the final message.")
        text = str(text_part["text"])
        text_part["text"] = text + _CONTINUE_MARK
        final[field] = parts
    else:
        text = str(content)
        names = [field]
        if field in _REASONING_NAMES:
            names = [name for name in _REASONING_NAMES if final.get(name) == content]
        for name in names:
            final[name] = text + _CONTINUE_MARK
    return [*chat[:-1], final], text


def _cut_at_mark(rendered: str, final: str) -> str:
    position = rendered.rfind(_CONTINUE_MARK.strip())
    if position < 0 or final.strip() not in rendered:
        raise ChatTemplateError("The chat template does not keep the final message, so it can't be continued.")
    trimmed = not rendered.startswith(_CONTINUE_MARK, position)  # a template that trims also ate the mark's space
    return rendered[:position].rstrip() if trimmed else rendered[:position]


def named_templates(value: Any, where: str) -> dict[str, str]:
    """Reads the two spellings of `chat_template`: one string, or a list of {name, template}."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
        return dict(value)
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        if len(named) == len(value) and all(isinstance(x, str) for pair in named.items() for x in pair):
            return named  # type: ignore[return-value]
    raise TokenizerError(f"{where}: chat_template must be a string or a list of named templates.")


def find_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a model folder by name; `default` is the usual one. Empty when it has none.

    `chat_template.jinja` and `additional_chat_templates/*.jinja` win over `tokenizer_config.json`, which wins over
    the older `chat_template.json`. Raises TokenizerError for unreadable files.
    """
    templates: dict[str, str] = {}
    processor = folder / "chat_template.json"
    if processor.is_file():
        try:
            value = json.loads(_read(processor))
        except ValueError as error:
            raise TokenizerError(f"{processor}: not valid JSON: {error}") from error
        templates.update(
            named_templates(value.get("chat_template") if isinstance(value, dict) else value, str(processor))
        )
    templates.update(named_templates(config.get("chat_template"), f"{folder / 'tokenizer_config.json'}"))
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = _read(folder / "chat_template.jinja")
    extra = folder / "additional_chat_templates"
    if extra.is_dir():
        for path in sorted(extra.glob("*.jinja")):
            templates[path.stem] = _read(path)
    return templates


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: can't be read: {error}") from error


def choose_template(templates: Mapping[str, str], wanted: str | None, has_tools: bool) -> str:
    """The template source to use: `wanted` is a template's name or its text; tools prefer `tool_use`.

    Raises ValueError (as ChatTemplateError) when there is none.
    """
    if wanted is not None:
        return templates.get(wanted, wanted)
    if has_tools and "tool_use" in templates:
        return templates["tool_use"]
    if "default" in templates:
        return templates["default"]
    if templates:
        raise ChatTemplateError(f"This model has only named chat templates ({', '.join(templates)}): name one.")
    raise ChatTemplateError("This model has no chat template; pass chat_template= or give the prompt as plain text.")
