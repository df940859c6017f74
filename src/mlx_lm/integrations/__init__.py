"""Programs built on mlx_lm: the plugin of `llm`, and what Outlines needs on devices without Metal.

Contract: importing this package loads nothing else; each module says which program it serves.
"""

__all__: list[str] = []
