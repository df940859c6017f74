"""The modules that programs import from `mlx_lm.tool_parsers`; their home is `mlx_lm.tokenizer.parsers`."""
