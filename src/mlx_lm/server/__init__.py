"""The HTTP server: OpenAI's and Anthropic's protocols over one engine.

`work` and `service` say what adapters and core have in common; nothing is imported here, so that `work` stays light.
"""

__all__: list[str] = []
