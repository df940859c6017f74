"""What talks to the outside: settings and the model loader."""

__all__: list[str] = []
