"""Settings."""

__all__: list[str] = []
