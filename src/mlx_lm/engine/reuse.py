"""The engine's use of the prefix cache: which keys a request has, and a cache that never fails a request."""

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict

import mlx.nn as nn

from ..state import State
from .prefix import PrefixCache, namespace
from .request import Request

__all__ = ["PrefixReuse"]

_log = logging.getLogger(__name__)


class PrefixReuse:
    """`PrefixCache` for the requests of one model."""

    def __init__(self, cache: PrefixCache, model: nn.Module, model_key: str | None):
        self.cache = cache
        specs = [repr(spec) for spec in model.state_specs()] if hasattr(model, "state_specs") else []  # type: ignore[operator]
        # Without a name the keys are this object's own, so another model can never be taken for it.
        self._base = {"model": model_key or os.urandom(16).hex(), "states": specs}
        self._spaces: dict[tuple[str, str, bool], bytes] = {}

    def space(self, request: Request, tokens: int) -> bytes:
        """The namespace of a request's blocks: what computes them, for whom, and how states of `tokens` are kept.

        States that are packed late are kept in two ways. Their blocks are apart: the packed ones must not stand in for
        the plain ones that a run of their length would have.
        """
        packed = request.kv.bits is not None and tokens > request.kv.start > 0
        settings = repr(sorted(asdict(request.kv).items()))
        key = (settings, request.cache_salt, packed)
        if key not in self._spaces:
            late = {"packed": True} if packed else {}
            self._spaces[key] = namespace({**self._base, "kv": settings, "salt": request.cache_salt, **late})
        return self._spaces[key]

    def begin(self, request: Request, states: Sequence[State]) -> int:
        """Fills fresh states with what is known of the prompt and returns how many tokens that is."""
        prompt, start = request.prompt, request.kv.start
        try:
            if request.kv.bits is None or start <= 0:
                return self.cache.reuse(self.space(request, 0), prompt, states).tokens
            known = self.cache.reuse(self.space(request, start + 1), prompt, states, more_than=start).tokens
            return known or self.cache.reuse(self.space(request, 0), prompt, states, at_most=start).tokens
        except Exception:  # the states are filled last and all at once, so they are still fresh
            _log.exception("A prefix could not be looked up")
            return 0

    def keep(self, request: Request, tokens: Sequence[int], states: Sequence[State]) -> None:
        """Stores what `states` hold of `tokens`."""
        try:
            held = max((state.offset for state in states), default=0)
            self.cache.store(self.space(request, held), tokens, states)
        except Exception:  # a cache that cannot store is a slower engine, not a failed request
            _log.exception("A prefix could not be stored")
