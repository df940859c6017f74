"""Anthropic's protocol: messages, count_tokens and the list of models, as pure translations.

`routes.anthropic_routes` is what the application mounts; nothing is imported here.
"""

__all__: list[str] = []
