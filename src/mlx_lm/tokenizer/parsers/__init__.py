"""Reasoning and tool calls in what a model writes: which format, and the parser that follows it.

Imports no MLX.
"""

from mlx_lm.tokenizer.parsers.budget import ThinkingBudget
from mlx_lm.tokenizer.parsers.calls import ToolCallReader
from mlx_lm.tokenizer.parsers.detect import ParserChoice, choose_parsers, prompt_opens_thinking
from mlx_lm.tokenizer.parsers.events import (
    Event,
    Parsed,
    ReasoningDelta,
    TextDelta,
    TextWasReasoning,
    ToolCall,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallStart,
)
from mlx_lm.tokenizer.parsers.formats import FORMATS, STYLES, tool_format
from mlx_lm.tokenizer.parsers.session import ReasoningStyle, ToolFormat
from mlx_lm.tokenizer.parsers.stream import StreamParser, collect, parse_complete

__all__ = [
    "FORMATS",
    "STYLES",
    "Event",
    "Parsed",
    "ParserChoice",
    "ReasoningDelta",
    "ReasoningStyle",
    "StreamParser",
    "TextDelta",
    "TextWasReasoning",
    "ThinkingBudget",
    "ToolCall",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallFailed",
    "ToolCallReader",
    "ToolCallStart",
    "ToolFormat",
    "choose_parsers",
    "collect",
    "parse_complete",
    "prompt_opens_thinking",
    "tool_format",
]
