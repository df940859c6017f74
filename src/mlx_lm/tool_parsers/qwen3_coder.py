"""The names of the format qwen3_coder; their home is `mlx_lm.tokenizer.parsers`."""

from mlx_lm.tokenizer.parsers import FORMATS, ToolCallReader

__all__ = ["parse_tool_call", "tool_call_end", "tool_call_start"]

parse_tool_call = ToolCallReader(FORMATS["qwen3_coder"])
tool_call_start = parse_tool_call.tool_call_start
tool_call_end = parse_tool_call.tool_call_end
