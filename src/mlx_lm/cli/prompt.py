"""From the prompt options to token ids: where the text comes from, and how the chat template is put around it.

This module does not know models or caches.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError

__all__ = ["PLAIN_TEMPLATE", "ChatFormat", "read_prompt"]

# For models without a template of their own, on request; the stop string ends an answer that would go on by itself.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}"
    "{% if not loop.last or add_generation_prompt %}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PLAIN_STOP = "\n\nUser:"


def read_prompt(prompt: str, file: str | None = None, *, raw: bool = False) -> str:
    """The prompt's text: of a file, of stdin for "-", or as given, with a literal backslash-n and -t unescaped.

    Raises:
        RequestError: the file cannot be read, or the text is empty.
    """
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--prompt-file {file}: {error}.") from error
    elif prompt == "-":
        text = sys.stdin.read()
    else:
        text = prompt if raw else prompt.replace("\\n", "\n").replace("\\t", "\t")
    if not text:
        raise RequestError("The prompt is empty.")
    return text


@dataclass(frozen=True)
class ChatFormat:
    """How messages become tokens for one model.

    Attributes:
        tokenizer: the model's.
        template: "model" for its own chat template, "plain" for `PLAIN_TEMPLATE`, None for no template at all.
        variables: for the template.
        stop: stop strings that the template needs.
    """

    tokenizer: Any
    template: str | None
    variables: dict[str, Any]
    stop: tuple[str, ...]

    @classmethod
    def choose(
        cls, tokenizer: Any, *, ignore: bool = False, use_default: bool = False, variables: dict[str, Any] | None = None
    ) -> "ChatFormat":
        """The format that the template options ask for."""
        if ignore and use_default:
            raise RequestError("--ignore-chat-template and --use-default-chat-template contradict each other.")
        if tokenizer.has_chat_template and not ignore:
            return cls.of(tokenizer, "model", variables)
        return cls.of(tokenizer, "plain" if use_default else None, variables)

    @classmethod
    def of(cls, tokenizer: Any, template: str | None, variables: dict[str, Any] | None = None) -> "ChatFormat":
        """The format with this template."""
        return cls(tokenizer, template, variables or {}, (_PLAIN_STOP,) if template == "plain" else ())

    def require(self, option: str, value: Any) -> None:
        """Raises RequestError when an option that needs a template was given and there is none."""
        if value and self.template is None:
            why = "--ignore-chat-template leaves it out" if self.tokenizer.has_chat_template else "this model has none"
            raise RequestError(f"{option} needs a chat template, and {why}; see --use-default-chat-template.")

    def text(self, messages: list[dict[str, str]], **how: Any) -> str:
        """The conversation as the model reads it; `how` is add_generation_prompt or continue_final_message."""
        template = PLAIN_TEMPLATE if self.template == "plain" else None
        return self.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, **how, **self.variables
        )

    def answer_text(self, messages: list[dict[str, str]], prefill: str | None = None) -> str:
        """The conversation up to the answer, or up to the end of `prefill`, with which the answer begins."""
        if prefill is None:
            return self.text(messages, add_generation_prompt=True)
        return self.text([*messages, {"role": "assistant", "content": prefill}], continue_final_message=True)

    def tokens(self, messages: list[dict[str, str]], **how: Any) -> list[int]:
        """Token ids of `text`."""
        return self.encode(self.text(messages, **how))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; it gets special tokens only where no template of the model has set them."""
        if self.template == "model":
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        from ..engine import encode_prompt

        return encode_prompt(self.tokenizer, text)
