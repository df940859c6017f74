"""The BERT encoder and its descendants that compute the same: every token sees every token.

Source: https://arxiv.org/abs/1810.04805; RoBERTa's positions begin behind the padding id. Parameter names are those of
the Hugging Face checkpoints. The encoder does not know about text or pooling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from ..errors import ConfigError
from ..kernels import activation
from ..kernels.activations import ACTIVATIONS
from ..nn import LayerNorm, Linear

__all__ = ["Encoder", "EncoderArgs"]


@dataclass(frozen=True)
class EncoderArgs:
    """What a config.json says of an encoder."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    pad_token_id: int = 0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "EncoderArgs":
        """Raises ConfigError, which names the field, for what is missing, out of range or not supported."""
        values: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            if config.get(name) is None:
                if not hasattr(cls, name):
                    raise ConfigError(f"config.json: {name} is missing.")
                continue
            value = config[name]
            whole = isinstance(value, int) and not isinstance(value, bool)
            if kind is int and not (whole and 0 <= value <= 1 << 24):
                raise ConfigError(f"config.json: {name} must be a whole number from 0 to {1 << 24:,}, not {value!r}.")
            if kind is float and not ((whole or isinstance(value, float)) and 0 < value < 1):
                raise ConfigError(f"config.json: {name} must lie between 0 and 1, not {value!r}.")
            if kind is str and not isinstance(value, str):
                raise ConfigError(f"config.json: {name} must be a text, not {value!r}.")
            values[name] = value
        args = cls(**values)
        if min(args.vocab_size, args.hidden_size, args.num_attention_heads, args.intermediate_size) < 1:
            raise ConfigError(
                "config.json: vocab_size, hidden_size, num_attention_heads and intermediate_size must be positive."
            )
        if args.num_hidden_layers > 2000:
            raise ConfigError(f"config.json: num_hidden_layers is {args.num_hidden_layers:,}, the limit is 2,000.")
        if args.hidden_size % args.num_attention_heads:
            raise ConfigError(
                f"config.json: hidden_size {args.hidden_size} is no multiple of num_attention_heads "
                f"{args.num_attention_heads}."
            )
        if args.hidden_act not in ACTIVATIONS:
            raise ConfigError(
                f"config.json: hidden_act {args.hidden_act!r} is not supported; known: {', '.join(ACTIVATIONS)}."
            )
        kind = config.get("position_embedding_type", "absolute")
        if kind != "absolute":
            raise ConfigError(f"config.json: position_embedding_type {kind!r} is not supported, only 'absolute'.")
        if config.get("is_decoder"):
            raise ConfigError("config.json: is_decoder is set; an embedding model must be an encoder.")
        return args

    @property
    def first_position(self) -> int:
        """Index of the first token's position embedding."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1

    @property
    def max_tokens(self) -> int:
        """Tokens that the positions allow."""
        return self.max_position_embeddings - self.first_position


class _Embeddings(nn.Module):
    def __init__(self, args: EncoderArgs):
        super().__init__()
        self.word_embeddings = nn.Embedding(args.vocab_size, args.hidden_size)
        self.position_embeddings = nn.Embedding(args.max_position_embeddings, args.hidden_size)
        self.token_type_embeddings = nn.Embedding(max(args.type_vocab_size, 1), args.hidden_size)
        self.LayerNorm = LayerNorm(args.hidden_size, args.layer_norm_eps)
        self._first = args.first_position

    def __call__(self, ids: mx.array) -> mx.array:
        positions = mx.arange(self._first, self._first + ids.shape[1])
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.LayerNorm(x + self.token_type_embeddings(mx.zeros((1,), mx.int32)))


class _SelfAttention(nn.Module):
    def __init__(self, args: EncoderArgs):
        super().__init__()
        d = args.hidden_size
        self.query, self.key, self.value = (Linear(d, d, bias=True) for _ in range(3))
        self._heads = args.num_attention_heads
        self._scale = (d // args.num_attention_heads) ** -0.5

    def __call__(self, x: mx.array) -> mx.array:
        b, n, d = x.shape
        q, k, v = (
            layer(x).reshape(b, n, self._heads, -1).transpose(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )  # (B, H, L, Dh)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._scale)
        return out.transpose(0, 2, 1, 3).reshape(b, n, d)


class _Residual(nn.Module):
    """LayerNorm(dense(x) + residual)."""

    def __init__(self, width: int, args: EncoderArgs):
        super().__init__()
        self.dense = Linear(width, args.hidden_size, bias=True)
        self.LayerNorm = LayerNorm(args.hidden_size, args.layer_norm_eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return self.LayerNorm(self.dense(x) + residual)


class _Layer(nn.Module):
    def __init__(self, args: EncoderArgs):
        super().__init__()
        self.attention = nn.Module()
        self.attention["self"] = _SelfAttention(args)
        self.attention.output = _Residual(args.hidden_size, args)
        self.intermediate = nn.Module()
        self.intermediate.dense = Linear(args.hidden_size, args.intermediate_size, bias=True)
        self.output = _Residual(args.intermediate_size, args)
        self._act = args.hidden_act

    def __call__(self, x: mx.array) -> mx.array:
        x = self.attention.output(self.attention["self"](x), x)
        return self.output(activation(self.intermediate.dense(x), self._act), x)


class Encoder(nn.Module):
    """Token ids (B, L) -> hidden states (B, L, D)."""

    def __init__(self, args: EncoderArgs):
        super().__init__()
        self.args = args
        self.embeddings = _Embeddings(args)
        self.encoder = nn.Module()
        self.encoder.layer = [_Layer(args) for _ in range(args.num_hidden_layers)]

    def __call__(self, ids: mx.array) -> mx.array:
        x = self.embeddings(ids)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return x
