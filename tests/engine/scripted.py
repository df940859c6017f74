"""A small Constraint for tests: a tree of allowed texts over token ids, as the engine's protocol asks for."""

import numpy as np

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import Constraint, mask_width


class OneOf:
    """The answer is one of `texts` (token ids); `end` may follow a text, and must where nothing else can."""

    def __init__(self, texts, vocab, end=None, taken=()):
        self.texts, self.vocab, self.end = [tuple(t) for t in texts], vocab, end
        self.taken = list(taken)
        self.log = []  # what was asked of it

    def _next(self):
        """Allowed tokens, None for an end."""
        if self.end is not None and self.end in self.taken:
            return {self.end}
        n = len(self.taken)
        fitting = [t for t in self.texts if t[:n] == tuple(self.taken)]
        return {t[n] if len(t) > n else None for t in fitting}

    @property
    def done(self):
        return self._next() == {None} or (self.end is not None and self.end in self.taken)

    @property
    def complete(self):
        return None in self._next() or self.done

    def _allowed(self):
        return {self.end if t is None else t for t in self._next()} - {None}

    def mask(self):
        self.log.append("mask")
        allowed = self._allowed()
        if not allowed:
            raise GrammarError("Nothing may follow.")
        bits = np.zeros(32 * mask_width(self.vocab), np.uint8)
        bits[list(allowed)] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, token):
        self.log.append("accept")
        if token not in self._allowed():
            raise GrammarError(f"{token} is not allowed after {self.taken}.")
        self.taken.append(token)

    def rollback(self, count):
        if count > len(self.taken):
            raise GrammarError("Too many.")
        del self.taken[len(self.taken) - count :]

    def forced(self):
        other, out = self.copy(), []
        while len(other._next()) == 1 and None not in other._next() and self.end not in other._next():
            out += other._next()
            other.taken.append(out[-1])
        return out

    def validate(self, tokens):
        other = self.copy()
        for i, token in enumerate(tokens):
            if token not in other._allowed():
                return i
            other.taken.append(token)
        return len(tokens)

    def copy(self):
        return OneOf(self.texts, self.vocab, self.end, self.taken)


assert isinstance(OneOf([], 1), Constraint)
