"""The error tree: every error that mlx_lm raises on purpose.

Messages say what was wrong, where, and what to do. Each class also derives from the built-in that callers
already catch (ValueError, RuntimeError, ...), so programs written for mlx-lm keep working.
"""

__all__ = [
    "AdapterError",
    "CacheMismatchError",
    "CacheStateError",
    "ChatTemplateError",
    "ConfigError",
    "ContextLengthError",
    "DeadlineError",
    "DownloadError",
    "GrammarError",
    "IncompleteOutputError",
    "MLXLMError",
    "MemoryBudgetError",
    "ModelFileError",
    "ModelNotFoundError",
    "OverloadedError",
    "RemoteCodeError",
    "RequestError",
    "TokenizerError",
    "UnsupportedError",
    "UnsupportedModelError",
    "WeightsError",
]


class MLXLMError(Exception):
    """Base of every error raised on purpose by mlx_lm."""


class ModelNotFoundError(MLXLMError, FileNotFoundError):
    """No folder, file, cached repository or packaged model has this name."""

    def __str__(self) -> str:  # OSError would show only the errno form
        return str(self.args[0]) if self.args else ""


class DownloadError(MLXLMError, OSError):
    """A model could not be fetched; what was fetched so far is kept for a resume."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ModelFileError(MLXLMError, ValueError):
    """A model file is truncated, malformed or hostile; the message names the file and the tensor."""


class ConfigError(MLXLMError, ValueError):
    """A config field is missing, contradictory or has a value that is not supported; the message names it."""


class UnsupportedModelError(ConfigError):
    """`model_type` is not a known family; the message names the nearest one."""


class WeightsError(MLXLMError, ValueError):
    """Weights are missing, unexpected or of the wrong shape; the message lists them."""


class AdapterError(MLXLMError, ValueError):
    """A LoRA adapter does not fit the model or is malformed."""


class TokenizerError(MLXLMError, ValueError):
    """A tokenizer file is missing, malformed or of a kind that is not supported."""


class ChatTemplateError(TokenizerError):
    """A chat template failed, is malformed, or did something that the sandbox forbids."""


class RemoteCodeError(MLXLMError, ValueError):
    """The model asks to run its own code and the user did not pass trust_remote_code."""


class RequestError(MLXLMError, ValueError):
    """A generation request is malformed; the message names the field."""


class ContextLengthError(RequestError):
    """The prompt does not fit the model's context; carries both numbers."""

    def __init__(self, prompt_tokens: int, context_length: int):
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length
        super().__init__(
            f"The prompt has {prompt_tokens:,} tokens but the model's context holds {context_length:,}. "
            "Shorten the prompt or use a model with a longer context."
        )


class GrammarError(RequestError):
    """A schema, pattern or grammar is malformed, too large or uses what is not supported; or a token breaks it."""


class IncompleteOutputError(MLXLMError, ValueError):
    """Structured output was cut off before it was complete; `text` is what there is."""

    def __init__(self, text: str, reason: str = "it was cut off"):
        self.text = text
        super().__init__(
            f"The structured output is not complete: {reason}. Raise max_tokens, or let it be closed in time with "
            f"close_within_budget=True. It ends with {text[-60:]!r}."
        )


class UnsupportedError(MLXLMError, ValueError):
    """A combination of features that cannot work; refused by name before any computation."""


class MemoryBudgetError(UnsupportedError):
    """A request that could never fit the memory budget; carries both numbers, in bytes."""

    def __init__(self, needed: int, budget: int):
        self.needed = needed
        self.budget = budget
        super().__init__(
            f"The request needs {needed / 1e9:.3f} GB for its states but the memory budget is {budget / 1e9:.3f} GB. "
            "Shorten the prompt, lower max_tokens, quantize the KV cache (--kv-bits) or raise --memory-budget."
        )


class OverloadedError(MLXLMError, RuntimeError):
    """The queue is full; try again after `retry_after` seconds."""

    def __init__(self, queued: int, retry_after: float):
        self.retry_after = retry_after
        super().__init__(f"{queued} requests are waiting already; try again in {retry_after:.0f} s.")


class DeadlineError(MLXLMError, TimeoutError):
    """A request was not done by its deadline."""


class CacheStateError(MLXLMError, RuntimeError):
    """A prompt cache was asked for something that its kind cannot do (for example trim past its window)."""


class CacheMismatchError(MLXLMError, ValueError):
    """A saved prompt cache was made for another model, kind or format."""
