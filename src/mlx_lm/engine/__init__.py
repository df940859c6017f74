"""One engine for everything: scheduling, running, and the Python API over it."""

from typing import TYPE_CHECKING

from ..lazy import lookup

if TYPE_CHECKING:
    from .api import encode_prompt, generate, generate_step, stream_generate, wrap_tokenizer
    from .batch import BatchGenerator, batch_generate
    from .engine import Engine
    from .kv import apply_kv_options, kv_options
    from .lru import LRUPromptCache
    from .memory import MemoryWatch
    from .model_states import check_states, context_length, new_states
    from .prefix import PrefixCache
    from .request import PrefillProgress, Request, TokenEvent
    from .speculate import DraftSpeculation, HeadSpeculation, NGramSpeculation, Probe, Speculation
    from .speculate.steps import (
        auto_speculation,
        auto_speculative_generate_step,
        mtp_generate_step,
        prompt_lookup_generate_step,
        speculative_generate_step,
    )
    from .stats import EngineStats
    from .text import StopSequences, TextStream

__all__ = [
    "BatchGenerator",
    "DraftSpeculation",
    "Engine",
    "EngineStats",
    "HeadSpeculation",
    "LRUPromptCache",
    "MemoryWatch",
    "NGramSpeculation",
    "PrefillProgress",
    "PrefixCache",
    "Probe",
    "Request",
    "Speculation",
    "StopSequences",
    "TextStream",
    "TokenEvent",
    "apply_kv_options",
    "auto_speculation",
    "auto_speculative_generate_step",
    "batch_generate",
    "check_states",
    "context_length",
    "encode_prompt",
    "generate",
    "generate_step",
    "kv_options",
    "mtp_generate_step",
    "new_states",
    "prompt_lookup_generate_step",
    "speculative_generate_step",
    "stream_generate",
    "wrap_tokenizer",
]

__getattr__ = lookup(
    __name__,
    {
        "api": "encode_prompt generate generate_step stream_generate wrap_tokenizer",
        "batch": "BatchGenerator batch_generate",
        "engine": "Engine",
        "kv": "apply_kv_options kv_options",
        "lru": "LRUPromptCache",
        "memory": "MemoryWatch",
        "model_states": "check_states context_length new_states",
        "prefix": "PrefixCache",
        "request": "PrefillProgress Request TokenEvent",
        "speculate": "DraftSpeculation HeadSpeculation NGramSpeculation Probe Speculation",
        "speculate.steps": "auto_speculation auto_speculative_generate_step mtp_generate_step "
        "prompt_lookup_generate_step speculative_generate_step",
        "stats": "EngineStats",
        "text": "StopSequences TextStream",
    },
)
