"""The formats of tool calls and the styles of reasoning, by name.

Contract: `FORMATS` and `STYLES` are the tables; `tool_format(name)` also knows the names that other servers use for
the same formats. Facts about the formats stand in the files of their families.

This module does not look at templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mlx_lm.errors import TokenizerError
from mlx_lm.tokenizer.parsers import channels, gemma, json_formats, nested_tags, pythonic, tag_formats
from mlx_lm.tokenizer.parsers.session import ReasoningStyle, ToolFormat

__all__ = ["FORMATS", "STYLES", "tool_format"]

FORMATS: Mapping[str, ToolFormat] = MappingProxyType(
    {
        one.name: one
        for family in (tag_formats, nested_tags, json_formats, pythonic, gemma, channels)
        for one in family.FORMATS
    }
)

_OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "hermes": "json_tools",
        "qwen": "json_tools",
        "qwen25": "json_tools",
        "granite4": "json_tools",
        "qwen3_xml": "qwen3_coder",
        "qwen3_5": "qwen3_coder",
        "nemotron_v3": "qwen3_coder",
        "glm45": "glm47",
        "poolside_v1": "laguna",
        "lfm2": "pythonic",
        "llama4_pythonic": "llama_pythonic",
        "llama3_json": "llama3",
        "llama4_json": "llama3",
        "deepseek_v31": "deepseek_v3",
        "deepseek_v4": "deepseek_v32",
        "functiongemma": "function_gemma",
        "minimax": "minimax_m2",
        "minimax_m25": "minimax_m2",
        "muse_glimmer": "muse_spark",
        "openai": "harmony",
        "gpt_oss": "harmony",
        "command_r7b": "command_r",
        "cohere": "command_r",
        "phi4": "phi4_mini",
        "phi4_mini_json": "phi4_mini",
    }
)

STYLES: Mapping[str, ReasoningStyle] = MappingProxyType(
    {
        one.name: one
        for one in (
            ReasoningStyle("think", "<think>", "</think>"),
            ReasoningStyle("longcat", "<longcat_think>", "</longcat_think>"),
            ReasoningStyle("think_tokens", "<|think:start|>", "<|think:end|>"),
            ReasoningStyle("mistral", "[THINK]", "[/THINK]"),
            ReasoningStyle("kimi", "◁think▷", "◁/think▷"),
            ReasoningStyle("seed", "<seed:think>", "</seed:think>"),
            ReasoningStyle("minimax_m3", "<mm:think>", "</mm:think>"),
            ReasoningStyle("cohere", "<|START_THINKING|>", "<|END_THINKING|>"),
            ReasoningStyle("gemma4", "<|channel>thought", "<channel|>"),
            ReasoningStyle("kimi_k3", "<|open|>think<|sep|>", "<|close|>think<|sep|>"),
            ReasoningStyle("harmony", "<|channel|>analysis<|message|>", "<|end|>"),
            ReasoningStyle("muse_spark", "to=self<|message|>", "<|eom|>"),
        )
    }
)


def tool_format(name: str) -> ToolFormat:
    """The format of this name, which may be another server's. Raises TokenizerError for an unknown one."""
    key = name.strip().lower().replace("-", "_").replace(".", "_")
    found = FORMATS.get(_OTHER_NAMES.get(key, key))
    if found is None:
        raise TokenizerError(f"Unknown tool_parser_type {name!r}; known: {', '.join(sorted(FORMATS))}.")
    return found
