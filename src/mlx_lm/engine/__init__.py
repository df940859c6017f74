"""One engine for everything: scheduling, running, and the Python API over it."""

from .api import apply_kv_options, encode_prompt, generate, generate_step, kv_options, stream_generate, wrap_tokenizer
from .batch import BatchGenerator, batch_generate
from .engine import Engine, EngineStats
from .lru import LRUPromptCache
from .model_states import check_states, context_length, new_states
from .prefix import PrefixCache
from .request import PrefillProgress, Request, TokenEvent
from .speculate import speculative_generate_step
from .text import StopSequences, TextStream

__all__ = [
    "BatchGenerator",
    "Engine",
    "EngineStats",
    "LRUPromptCache",
    "PrefillProgress",
    "PrefixCache",
    "Request",
    "StopSequences",
    "TextStream",
    "TokenEvent",
    "apply_kv_options",
    "batch_generate",
    "check_states",
    "context_length",
    "encode_prompt",
    "generate",
    "generate_step",
    "kv_options",
    "new_states",
    "speculative_generate_step",
    "stream_generate",
    "wrap_tokenizer",
]
