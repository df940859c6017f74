"""Which format of tool calls and which style of reasoning a model uses.

Contract: `choose_parsers` looks for strings in the chat template, then in the vocabulary; nothing is rendered or run. A
format that is not in the tables is not guessed. `prompt_opens_thinking` tells whether a prompt leaves reasoning open,
so that the model's output begins inside it.

This module does not parse output.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from mlx_lm.tokenizer.parsers.formats import FORMATS, STYLES, tool_format
from mlx_lm.tokenizer.parsers.session import ReasoningStyle, ToolFormat

__all__ = ["ParserChoice", "choose_parsers", "prompt_opens_thinking"]

# In order; all strings of a rule must be in the template.
_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kimi_k3", ("<|open|>", "<|sep|>", "<|close|>")),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("deepseek_v32", ("｜DSML｜",)),  # noqa: RUF001
    ("deepseek_v3", ("<｜tool▁calls▁begin｜>",)),  # noqa: RUF001
    ("minimax_m3", ("]<]minimax[>[",)),
    ("minimax_m2", ("<minimax:tool_call>",)),
    ("muse_spark", ("<atem:function_calls>",)),
    ("longcat", ("<longcat_tool_call>",)),
    ("function_gemma", ("<start_function_call>",)),
    ("gemma4", ("<|tool_call>", "<tool_call|>")),
    ("seed_oss", ("<seed:tool_call>",)),
    ("harmony", ("<|channel|>", "<|message|>", "<|call|>")),
    ("command_r", ("<|START_ACTION|>",)),
    ("command_r", ("Action:", "tool_name", "<|CHATBOT_TOKEN|>")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("nemotron", ("<TOOLCALL>",)),
    ("pythonic", ("<|tool_call_start|>",)),
    ("pythonic", ("<|tool_list_start|>",)),
    ("glm47", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<tool_call>", "<function=")),
    ("minicpm5", ("<function name=", "<param name=")),
    ("granite", ("<|tool_call|>", "[")),
    ("granite", ("<function_call>", "no_function")),
    ("json_tools", ("<tool_call>",)),
    ("phi4_mini", ("functools",)),
    ("phi4_mini", ("<|tool|>", "<|/tool|>")),
    ("llama_pythonic", ("[func_name1(params_name1=params_value1",)),
    ("llama3", ("<|python_tag|>",)),
    ("llama3", ('{"name": function name, "parameters"',)),
)
# Tokens that tell the format of a model whose template passes tools but writes no calls.
_TOKENS: tuple[tuple[str, str], ...] = (
    ("kimi_k2", "<|tool_calls_section_begin|>"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜>"),  # noqa: RUF001
    ("minimax_m2", "<minimax:tool_call>"),
    ("longcat", "<longcat_tool_call>"),
    ("function_gemma", "<start_function_call>"),
    ("gemma4", "<|tool_call>"),
    ("seed_oss", "<seed:tool_call>"),
    ("command_r", "<|START_ACTION|>"),
    ("mistral", "[TOOL_CALLS]"),
    ("pythonic", "<|tool_call_start|>"),
    ("llama3", "<|python_tag|>"),
    ("json_tools", "<tool_call>"),
)
_SPECIAL_STYLES = {"harmony": "harmony", "muse_spark": "muse_spark", "kimi_k3": "kimi_k3"}
_MARKED_STYLES = tuple(style for name, style in STYLES.items() if name not in _SPECIAL_STYLES)
_MAX_TAIL = 4  # tokens that templates write behind the marker, such as a line break


@dataclass(frozen=True)
class ParserChoice:
    """How a model writes its reasoning and its tool calls; None where it does not, or in no known way."""

    reasoning: ReasoningStyle | None = None
    tools: ToolFormat | None = None


def choose_parsers(
    template: str | None, vocab: Container[str] | None = None, override: str | None = None
) -> ParserChoice:
    """Finds the parsers of a model.

    Args:
        template: the source of its chat template.
        vocab: its tokens, such as the mapping of `get_vocab()`.
        override: `tool_parser_type` of its tokenizer_config.json; "none" turns tool calls off.

    Raises TokenizerError for an unknown override.
    """
    text, tokens = template or "", () if vocab is None else vocab
    if override:
        tools = None if override.strip().lower() == "none" else tool_format(override)
    else:
        tools = _find_tools(text, tokens)
    return ParserChoice(_find_style(text, tokens, tools), tools)


def _find_tools(text: str, tokens: Container[str]) -> ToolFormat | None:
    for name, needles in _RULES:
        # Inside a quoted string of the template, quotes are escaped.
        if all(needle in text or needle.replace('"', '\\"') in text for needle in needles):
            return FORMATS[name]
    if "tools" in text:
        return next((FORMATS[name] for name, token in _TOKENS if token in tokens), None)
    return None


def _find_style(text: str, tokens: Container[str], tools: ToolFormat | None) -> ReasoningStyle | None:
    if tools is not None and tools.name in _SPECIAL_STYLES:
        return STYLES[_SPECIAL_STYLES[tools.name]]
    for style in _MARKED_STYLES:
        if style.start in text and style.end in text:
            return style
    for style in _MARKED_STYLES:
        if style.name == "gemma4":
            if "<|channel>" in tokens and "<channel|>" in tokens:
                return style
        elif style.start in tokens and style.end in tokens:
            return style
    # Templates that drop the reasoning of earlier turns, or open it in the prompt, name one marker only.
    return next((style for style in _MARKED_STYLES if style.start in text or style.end in text), None)


def prompt_opens_thinking(
    prompt: str | Sequence[int], start: str | Sequence[int], end: str | Sequence[int] | None = None
) -> bool:
    """Whether the prompt ends inside reasoning: `start`, then nothing but layout.

    Text is compared with text and ids with ids. A marker further back is the user's, or an earlier turn's.
    """
    if isinstance(prompt, str):
        return isinstance(start, str) and bool(start) and prompt.rstrip().endswith(start.rstrip())
    opening, closing = tuple(start), tuple(end or ())
    if not opening or isinstance(start, str) or isinstance(end, str):
        return False
    tail = tuple(prompt[-(len(opening) + _MAX_TAIL + len(closing)) :])
    at = _last(tail, opening)
    return at >= 0 and len(tail) - at - len(opening) <= _MAX_TAIL and _last(tail[at + len(opening) :], closing) < 0


def _last(ids: tuple[int | str, ...], part: tuple[int | str, ...]) -> int:
    for at in range(len(ids) - len(part), -1, -1):
        if part and ids[at : at + len(part)] == part:
            return at
    return -1
