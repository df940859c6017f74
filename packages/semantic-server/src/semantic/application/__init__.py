"""The service."""

__all__: list[str] = []
