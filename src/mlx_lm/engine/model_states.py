"""What the engine asks of a model beside its logits: fresh states, their bytes, its context."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import CacheMismatchError
from ..models.base import state_dtype
from ..state import PLAIN_KV, AttentionState, KVOptions, State
from .admission import predicted_bytes

__all__ = ["check_states", "context_length", "hidden_and_head", "kept_dtype", "new_states", "predict"]


def hidden_and_head(model: nn.Module) -> tuple[Any, Any]:
    """The model's two halves, so that a prompt needs no logits but the last; models from elsewhere are one half."""
    hidden, logits = getattr(model, "hidden", None), getattr(model, "logits", None)
    if callable(hidden) and callable(logits):
        return hidden, logits
    return model, None


def context_length(model: nn.Module) -> int | None:
    """Positions that the model's config allows, or None."""
    length = getattr(model, "context_length", None)
    if isinstance(length, int):
        return length
    return getattr(getattr(model, "args", None), "max_position_embeddings", None)


def new_states(model: nn.Module, options: KVOptions = PLAIN_KV) -> list[State]:
    """Fresh states for one sequence; a model from elsewhere may make its own."""
    if hasattr(model, "state_specs"):
        return model.make_cache(options)  # type: ignore[operator]
    if hasattr(model, "make_cache"):
        return model.make_cache()  # type: ignore[operator]
    window = None if options.max_size is None else options.max_size - options.keep
    keep = 0 if window is None else options.keep
    return [
        AttentionState(window=window, keep=keep, bits=options.bits, group_size=options.group_size, start=options.start)
        for _ in model.layers  # type: ignore[union-attr]
    ]


def predict(model: nn.Module, tokens: int, options: KVOptions) -> int:
    """Bytes of a sequence's states after `tokens` tokens; 0 for a model that declares none."""
    if not hasattr(model, "state_specs"):
        return 0
    return predicted_bytes(model.state_specs(), tokens, kept_dtype(model), options)  # type: ignore[operator]


def kept_dtype(model: nn.Module) -> mx.Dtype:
    """What plain keys and values are kept in."""
    kept = getattr(model, "kv_dtype", None)
    return getattr(mx, kept) if kept is not None else state_dtype(model)


def check_states(model: nn.Module, states: Sequence[State]) -> None:
    """Raises CacheMismatchError unless `states` can have been made by this model."""
    if not hasattr(model, "state_specs"):
        return
    specs = model.state_specs()  # type: ignore[operator]
    if len(specs) != len(states):
        raise CacheMismatchError(
            f"The prompt cache has {len(states)} layers but the model has {len(specs)}: it is another model's."
        )
    for i, (spec, state) in enumerate(zip(specs, states, strict=True)):
        problem = spec.mismatch(state)
        if problem:
            raise CacheMismatchError(f"The prompt cache does not fit the model: layer {i} {problem}.")
