"""Text to token ids and back: tokenizers, chat templates, streaming detokenizers.

Imports no MLX, and nothing heavy at import time.
"""

from mlx_lm.tokenizer.chat_template import ChatTemplate
from mlx_lm.tokenizer.detokenize import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    SPMStreamingDetokenizer,
    StreamingDetokenizer,
)
from mlx_lm.tokenizer.fast import FastTokenizer
from mlx_lm.tokenizer.gguf import tokenizer_from_gguf
from mlx_lm.tokenizer.load import load_tokenizer
from mlx_lm.tokenizer.wrapper import TokenizerWrapper

__all__ = [
    "BPEStreamingDetokenizer",
    "ChatTemplate",
    "FastTokenizer",
    "NaiveStreamingDetokenizer",
    "SPMStreamingDetokenizer",
    "StreamingDetokenizer",
    "TokenizerWrapper",
    "load_tokenizer",
    "tokenizer_from_gguf",
]
