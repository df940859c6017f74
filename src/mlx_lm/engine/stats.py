"""What an engine reports: where it stands, and what it has done. Imports no MLX."""

from dataclasses import dataclass

__all__ = ["EngineCounters", "EngineStats"]


@dataclass
class EngineCounters:
    """What the engine has done: counts, and seconds spent in prompts and in decode steps."""

    prompt_tokens: int = 0
    prompt_time: float = 0.0
    generation_tokens: int = 0
    generation_steps: int = 0
    decode_time: float = 0.0


@dataclass(frozen=True)
class EngineStats:
    """Where the engine stands.

    Requests: `queued` have not begun, `prefilling` compute their prompt, `running` decode; the others have ended.
    Bytes of the states of live requests: `reserved_bytes` up to their limits, `predicted_bytes` for the tokens that
    they have now, `state_bytes` as measured; `budget_bytes` is what may be reserved.
    Prefix cache: what is in memory, blocks that were evicted, tokens of prompts that were looked up (`prefix_tokens`)
    and found. Of the guessed tokens (`drafted_tokens`), `accepted_tokens` were right; grammars gave `forced_tokens`.
    """

    queued: int
    prefilling: int
    running: int
    finished: int
    failed: int
    cancelled: int
    reserved_bytes: int
    predicted_bytes: int
    state_bytes: int
    budget_bytes: int | None
    cached_blocks: int
    cached_bytes: int
    evicted_blocks: int
    prefix_tokens: int
    reused_tokens: int
    reused_from_disk_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    forced_tokens: int
    counters: dict[str, float]
