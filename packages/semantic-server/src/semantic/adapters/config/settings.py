"""The semantic server's settings, under their names and in their ranges.

Contract: `MLXSettings()` takes each value from the nearest source that has it: an argument, the environment
(`SEMANTIC_MLX_KV_BITS`), `.env`, `[mlx]` of `config/default.toml`, the default. A value out of range is pydantic's
ValidationError. `to_server` gives the same as settings of `mlx_lm.server`; a setting that has no meaning there is named
in the log when somebody sets it, never dropped in silence.

The files are those of the working folder; `SEMANTIC_CONFIG` names another TOML file.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from mlx_lm.settings import read_env_file
from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["AgentSettings", "MLXSettings", "SemanticSettings", "ServerSettings"]

_log = logging.getLogger("semantic.settings")
_NONE = ("", "none", "null", "0")


class _Settings(BaseModel):
    """Fields from arguments, environment, .env and TOML, in this order."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())
    prefix: ClassVar[str] = ""
    section: ClassVar[str] = ""
    # Settings of the former server that have no counterpart, and why.
    without_effect: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, **given: Any) -> None:
        found = {**_from_toml(self.section), **_from_environment(self.prefix)}
        for name in found.keys() & self.without_effect.keys():
            _log.warning("%s%s has no effect: %s", self.prefix, name.upper(), self.without_effect[name])
        known = {name: value for name, value in found.items() if name in type(self).model_fields}
        super().__init__(**{**known, **given})


class MLXSettings(_Settings):
    """The model and how it is run (`SEMANTIC_MLX_*`, `[mlx]`)."""

    prefix = "SEMANTIC_MLX_"
    section = "mlx"
    without_effect = MappingProxyType(
        {
            "chunked_prefill_enabled": "prompts are always computed in pieces of prefill_step_size",
            "chunked_prefill_threshold": "prompts are always computed in pieces of prefill_step_size",
            "chunked_prefill_min_chunk": "prompts are always computed in pieces of prefill_step_size",
            "chunked_prefill_max_chunk": "prompts are always computed in pieces of prefill_step_size",
            "scheduler_enabled": "prompts and answers always take turns",
            "scheduler_interleave_threshold": "prompts and answers always take turns",
            "reasoning_extra_tokens": "max_tokens counts reasoning; a client sets thinking.budget_tokens",
        }
    )

    model_id: str = "mlx-community/DeepSeek-Coder-V2-Lite-Instruct-4bit-mlx"
    max_context_length: int = Field(default=100_000, ge=1024, le=163_840)
    max_batch_size: int = Field(default=1, ge=1, le=20)
    prefill_step_size: int = Field(default=512, ge=128, le=2048)
    kv_bits: int | None = Field(default=4, ge=4, le=8)
    kv_group_size: int = Field(default=64, ge=16, le=256)
    block_tokens: int = Field(default=256, ge=64, le=512)
    cache_budget_mb: int = Field(default=2048, ge=512, le=16_384)
    default_max_tokens: int = Field(default=256, ge=1, le=65_536)
    default_temperature: float = Field(default=0.7, ge=0, le=2)

    @field_validator("kv_bits", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == 0 or (isinstance(value, str) and value.strip().lower() in _NONE) else value

    @field_validator("kv_bits")
    @classmethod
    def _packable(cls, value: int | None) -> int | None:
        if value == 7:  # the one number of the range that MLX has no packing for
            raise ValueError("must be 4, 5, 6, 8 or none")
        return value

    @field_validator("kv_group_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("must be a power of 2")
        return value


class AgentSettings(_Settings):
    """What outlives a request (`SEMANTIC_AGENT_*`, `[agent]`)."""

    prefix = "SEMANTIC_AGENT_"
    section = "agent"
    without_effect = MappingProxyType(
        {
            "max_agents_in_memory": "prefixes are shared by all conversations; cache_budget_mb limits them",
            "batch_window_ms": "a request joins the running batch at once",
            "lru_eviction_enabled": "the prefix longest unused always goes first",
            "validate_model_tag": "the weights' fingerprint is always part of a prefix's key",
        }
    )

    cache_dir: str | None = "~/.semantic/caches"
    evict_to_disk: bool = True


class ServerSettings(_Settings):
    """HTTP (`SEMANTIC_SERVER_*`, `[server]`)."""

    prefix = "SEMANTIC_SERVER_"
    section = "server"
    without_effect = MappingProxyType(
        {
            "rate_limit_per_agent": "the queue is bounded; more is refused with 503 and Retry-After",
            "rate_limit_global": "the queue is bounded; more is refused with 503 and Retry-After",
        }
    )

    # The former default was 0.0.0.0: without a key that would open the model to the network.
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=1)  # one process holds the model
    log_level: str = "INFO"
    cors_origins: str = ""


class SemanticSettings:
    """All of them, and the keys of clients."""

    def __init__(self, *, server: Mapping[str, Any] | None = None, mlx: Mapping[str, Any] | None = None) -> None:
        self.mlx = MLXSettings(**dict(mlx or {}))
        self.agent = AgentSettings()
        self.server = ServerSettings(**dict(server or {}))
        disabled = os.environ.get("SEMANTIC_AUTH_DISABLED", "").strip().lower() in ("1", "true", "yes", "on")
        listed = () if disabled else (os.environ.get(name, "") for name in ("SEMANTIC_API_KEY", "ANTHROPIC_API_KEY"))
        self.api_keys = tuple(key.strip() for keys in listed for key in keys.split(",") if key.strip())

    def fit_context(self, positions: int | None) -> None:
        """Lowers the default context to the model's positions, and says so; one that somebody set stays as it is."""
        wanted = self.mlx.max_context_length
        if positions is not None and positions < wanted and "max_context_length" not in self.mlx.model_fields_set:
            _log.warning("The model has %s positions, fewer than the default context of %s", positions, wanted)
            self.mlx = self.mlx.model_copy(update={"max_context_length": positions})

    def to_server(self) -> dict[str, Any]:
        """The same by mlx_lm's names, for `mlx_lm.settings.read_settings`. One model answers to every name."""
        mlx, server = self.mlx, self.server
        disk = self.agent.cache_dir if self.agent.evict_to_disk else None
        return {
            "model_id": mlx.model_id,
            "aliases": {"*": "default_model"},
            "max_context_length": mlx.max_context_length,
            "max_batch_size": mlx.max_batch_size,
            "prefill_step_size": mlx.prefill_step_size,
            "kv_bits": mlx.kv_bits,
            "kv_group_size": mlx.kv_group_size,
            "quantized_kv_start": 0,
            "block_tokens": mlx.block_tokens,
            "prompt_cache_bytes": mlx.cache_budget_mb * 2**20,
            "disk_prompt_cache_dir": None if disk is None else str(Path(disk).expanduser()),
            "max_tokens": mlx.default_max_tokens,
            "temp": mlx.default_temperature,
            "host": server.host,
            "port": server.port,
            "log_level": server.log_level.upper(),
            "allowed_origins": tuple(o.strip() for o in server.cors_origins.split(",") if o.strip()),
            "api_keys": self.api_keys,
        }


def _from_environment(prefix: str) -> dict[str, str]:
    file = Path(".env")
    both = {**(read_env_file(file) if file.is_file() else {}), **os.environ}
    return {name.removeprefix(prefix).lower(): value for name, value in both.items() if name.startswith(prefix)}


def _from_toml(section: str) -> dict[str, Any]:
    named = os.environ.get("SEMANTIC_CONFIG")
    path = Path(named or "config/default.toml")
    if not named and not path.is_file():
        return {}
    with path.open("rb") as file:
        found = tomllib.load(file).get(section, {})
    return dict(found)
