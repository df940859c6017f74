"""The names of the format minicpm5; their home is `mlx_lm.tokenizer.parsers`."""

from mlx_lm.tokenizer.parsers import FORMATS, ToolCallReader

__all__ = ["parse_tool_call", "tool_call_end", "tool_call_start"]

parse_tool_call = ToolCallReader(FORMATS["minicpm5"])
tool_call_start = parse_tool_call.tool_call_start
tool_call_end = parse_tool_call.tool_call_end
