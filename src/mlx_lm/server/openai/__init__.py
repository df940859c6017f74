"""OpenAI's protocol: chat completions, completions, responses and embeddings, as pure translations.

`routes.openai_routes` is what the application mounts; nothing is imported here.
"""

__all__: list[str] = []
