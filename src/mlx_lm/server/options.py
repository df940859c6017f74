"""The server's settings: one table for the command line, the environment, TOML and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..settings import setting

__all__ = ["ServerSettings"]


def _mlx(default: Any, help: str, **how: Any) -> Any:
    return setting(default, help, section="mlx", **how)


def _sampling(default: Any, help: str, **how: Any) -> Any:
    return setting(default, help, section="sampling", **how)


def _models(default: Any, help: str, **how: Any) -> Any:
    return setting(default, help, section="models", **how)


@dataclass(frozen=True)
class ServerSettings:
    """Everything that can be set; see the help texts. Sizes are bytes, times are seconds."""

    # The default model and how it is run.
    model_id: str | None = _mlx(
        None, "Default model: folder, GGUF file, Hugging Face id or packaged name.", flags=["model"]
    )
    adapter_path: str | None = _mlx(None, "Folder of a LoRA adapter that the default model always has.")
    max_batch_size: int = _mlx(
        32, "Answers written at the same time.", kind="int", low=1, high=1024,
        flags=["max-batch-size", "decode-concurrency"],
    )  # fmt: skip
    prefill_step_size: int = _mlx(2048, "Most prompt tokens computed in one step.", kind="int", low=16, high=65536)
    kv_bits: int | None = _mlx(
        None,
        "Bits of keys and values in the cache; none keeps them as computed.",
        kind="int",
        choices=(2, 3, 4, 5, 6, 8),
    )
    kv_group_size: int = _mlx(64, "Values that share a scale.", kind="int", choices=(32, 64, 128))
    quantized_kv_start: int = _mlx(5000, "Tokens from which kv_bits applies.", kind="int", low=0)
    max_kv_size: int | None = _mlx(
        None, "Tokens kept in a sequence's cache: the first 4 and the latest.", kind="int", low=8
    )
    max_context_length: int | None = _mlx(
        None, "Tokens of prompt and answer together; up to what the model's positions allow.", kind="int", low=16
    )
    block_tokens: int = _mlx(
        256, "Tokens in a block of the prefix cache; 256 is the only size.", kind="int", choices=(256,)
    )
    prompt_cache_bytes: int = _mlx(
        4_000_000_000, "Memory for computed prefixes; 0 turns the prefix cache off.", kind="bytes", low=0,
        also={"cache_budget_mb": "MiB"},
    )  # fmt: skip
    memory_budget: int | None = _mlx(
        None, "Memory for running sequences; none is four fifths of the device's less the weights.", kind="bytes", low=1
    )
    disk_prompt_cache_dir: str | None = _mlx(None, "Folder in which computed prefixes outlive the server.")
    disk_prompt_cache_bytes: int = _mlx(20_000_000_000, "Most that this folder may hold.", kind="bytes", low=1)
    disk_prompt_cache_min_tokens: int = _mlx(512, "Shorter prefixes are not written to disk.", kind="int", low=0)
    chat_template: str | None = _mlx(None, "A chat template (its text) in place of the default model's own.")
    use_default_chat_template: bool = _mlx(False, "A plain template for models that have none.", kind="bool")
    chat_template_args: Mapping[str, Any] = _mlx({}, "Variables for chat templates, as JSON.", kind="table")
    trust_remote_code: bool = _mlx(False, "Let a tokenizer run Python code of the model.", kind="bool")
    speculation: str = _mlx(
        "none", "How tokens are guessed ahead: ngram (as the text went on before), mtp (the model's own head), auto.",
        choices=("none", "auto", "ngram", "mtp"),
    )  # fmt: skip
    draft_model: str | None = _mlx(None, "A small model of the same tokenizer that guesses for the default model.")
    num_draft_tokens: int = _mlx(3, "Tokens that the draft model guesses at a time.", kind="int", low=1, high=64)
    pipeline: bool | None = _mlx(
        None, "Pipeline.", kind="bool", refused="models that are spread over several machines can't be run yet."
    )
    prompt_concurrency: int | None = _mlx(
        None, "Prompts at once.", kind="int",
        refused="prompts are computed one after another, in pieces between the steps of running answers.",
    )  # fmt: skip
    prompt_cache_size: int | None = _mlx(
        None, "Prompts kept.", kind="int",
        refused="prefixes are shared between conversations, so they are not counted; set --prompt-cache-bytes.",
    )  # fmt: skip

    # More models.
    models: Mapping[str, Any] = _models(
        {}, "Other models that clients may name: name=folder, file or id.", kind="table", flags=["models"], key="allow"
    )
    aliases: Mapping[str, Any] = _models(
        {}, "Other names of models: alias=name; an alias may hold * and ?.", kind="table"
    )
    adapters: Mapping[str, Any] = _models({}, "LoRA adapters that clients may name: name=folder.", kind="table")
    pin: tuple[str, ...] = _models((), "Models that are loaded at the start and never unloaded.", kind="list")
    max_loaded_models: int = _models(
        1, "Models in memory at once; the one longest unused goes first.", kind="int", low=1, high=64
    )
    model_ttl: float | None = _models(None, "Seconds after which an unused model is unloaded.", kind="float", low=0)
    allow_download: bool = _models(
        False, "Let clients name any Hugging Face id, and fetch what they name.", kind="bool"
    )

    # What holds where a request says nothing.
    temp: float = _sampling(0.0, "Temperature; 0 takes the likeliest token.", kind="float", low=0, high=100)
    top_p: float = _sampling(1.0, "Keep the likeliest tokens of this probability.", kind="float", low=0, high=1)
    top_k: int = _sampling(0, "Keep the K likeliest tokens; 0 keeps all.", kind="int", low=0)
    min_p: float = _sampling(0.0, "Keep tokens this likely, relative to the best.", kind="float", low=0, high=1)
    max_tokens: int = _sampling(-1, "Most tokens of an answer; -1 is no limit but the context.", kind="int", low=-1)

    # HTTP.
    host: str = setting("127.0.0.1", "Address to listen on; others than this machine's own need an API key.")
    port: int = setting(8080, "Port; 0 takes a free one.", kind="int", low=0, high=65535)
    api_keys: tuple[str, ...] = setting(
        (), "Keys of clients (Authorization: Bearer, or x-api-key). Best given in the environment.",
        kind="list", flags=["api-key"], also={"api_key": "list"}, secret=True,
    )  # fmt: skip
    allowed_hosts: tuple[str, ...] = setting(
        (), "Host names that requests may use beside this machine's own; * allows all.", kind="list"
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "Origins of web pages that may use the server (CORS); * allows all.", kind="list"
    )
    max_queue: int = setting(256, "Requests that may wait; more are refused with 503.", kind="int", low=0)
    max_connections: int = setting(1024, "Open connections; more are closed.", kind="int", low=1)
    max_body_bytes: int = setting(32 * 2**20, "Most bytes of a request's body.", kind="bytes", low=1024)
    max_header_bytes: int = setting(32 * 2**10, "Most bytes of a request's headers.", kind="bytes", low=1024)
    read_timeout: float = setting(30.0, "Seconds in which headers and body must have come.", kind="float", low=0.1)
    request_timeout: float | None = setting(
        None, "Seconds after which a request that is not done ends with an error.", kind="float", low=0.1
    )
    drain_seconds: float = setting(
        30.0, "After SIGTERM, seconds in which running answers may end.", kind="float", low=0, high=3600
    )
    strict_fields: bool = setting(
        False, "Refuse requests in OpenAI's form that have unknown fields; else these are ignored.", kind="bool"
    )
    web_page: bool = setting(True, "Serve the chat page at /.", kind="bool")
    log_level: str = setting("INFO", "What is logged.", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))

    def __post_init__(self) -> None:
        if self.max_tokens == 0:
            raise ConfigError("max_tokens must be at least 1, or -1 for no limit; not 0.")
        if self.draft_model is not None and self.speculation != "none":
            raise ConfigError(f"draft_model and speculation = {self.speculation!r} are two ways to guess: choose one.")
        if self.draft_model is not None and self.model_id is None:
            raise ConfigError("draft_model guesses for the default model, and model_id names none.")
