"""The names of the semantic server, as thin mappings onto mlx_lm. Nothing is computed here."""

__all__: list[str] = []
