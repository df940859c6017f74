"""From a request's `Speculation` to its drafter: what can work with a model, what it takes, and the object."""

from collections.abc import Sequence
from typing import Any

import mlx.nn as nn

from ...errors import UnsupportedError
from ...state import KVOptions
from ..admission import predicted_bytes
from ..model_states import check_states, hidden_and_head, kept_dtype, new_states, predict
from .drafter import Drafter
from .head import HeadDrafter
from .model import ModelDrafter
from .ngram import NGramDrafter
from .options import DraftSpeculation, HeadSpeculation, NGramSpeculation, Speculation

__all__ = ["check_speculation", "drafter_bytes", "has_head", "make_drafter"]


def has_head(model: nn.Module) -> bool:
    """Whether the model has a next-token head that drafts."""
    return _drafting(model) is not None and hidden_and_head(model)[1] is not None


def check_speculation(model: nn.Module, speculation: Speculation | None) -> None:
    """Raises UnsupportedError or CacheMismatchError for a speculation that this model cannot have."""
    if isinstance(speculation, DraftSpeculation):
        _check_pair(model, speculation.model)
        if speculation.states is not None:
            check_states(speculation.model, speculation.states)
    elif isinstance(speculation, HeadSpeculation) and not has_head(model):
        raise UnsupportedError(
            f"This {getattr(model, 'model_type', 'model')} checkpoint has no next-token head (mtp.*): speculate by "
            "prompt lookup or with a draft model."
        )


def drafter_bytes(model: nn.Module, speculation: Speculation | None, tokens: int, options: KVOptions) -> int:
    """Bytes of a drafter's own states after `tokens` tokens."""
    if isinstance(speculation, DraftSpeculation):
        return predict(speculation.model, tokens, options)
    if isinstance(speculation, HeadSpeculation):
        return predicted_bytes(_drafting(model).mtp.state_specs(), tokens, kept_dtype(model), options)
    return 0


def make_drafter(
    model: nn.Module, speculation: Speculation, tokens: Sequence[int], held: int, options: KVOptions
) -> Drafter:
    """A drafter for a sequence of `tokens`, of which the model's states hold `held` already."""
    if isinstance(speculation, NGramSpeculation):
        return NGramDrafter(tokens, speculation.num_tokens, speculation.min_match, speculation.max_match)
    if isinstance(speculation, HeadSpeculation):
        drafting = _drafting(model)
        return HeadDrafter(tokens, drafting, drafting.make_draft_cache(options), speculation.num_tokens)
    states = speculation.states
    if states is None:
        states = new_states(speculation.model, options)
    known = held if any(not state.empty() for state in states) else 0
    return ModelDrafter(tokens, speculation.model, states, speculation.num_tokens, known)


def _drafting(model: nn.Module) -> Any:
    """The model, or the text tower in it, that has a next-token head; None where there is none."""
    for part in (model, getattr(model, "language_model", None)):
        if getattr(part, "mtp", None) is not None and hasattr(part, "draft"):
            return part
    return None


def _check_pair(model: nn.Module, draft_model: nn.Module) -> None:
    sizes = [getattr(getattr(m, "args", None), "vocab_size", None) for m in (model, draft_model)]
    if sizes[0] != sizes[1]:
        raise UnsupportedError(
            f"The draft model's vocabulary has {sizes[1]} tokens and the model's {sizes[0]}: a draft model must have "
            "the same tokenizer."
        )
