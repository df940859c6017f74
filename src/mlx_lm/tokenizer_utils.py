"""The names that programs import from `mlx_lm.tokenizer_utils`; their home is `mlx_lm.tokenizer`."""

from mlx_lm.tokenizer import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    SPMStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
    load_tokenizer,
)

__all__ = [
    "BPEStreamingDetokenizer",
    "NaiveStreamingDetokenizer",
    "SPMStreamingDetokenizer",
    "StreamingDetokenizer",
    "TokenizerWrapper",
    "load_tokenizer",
]
