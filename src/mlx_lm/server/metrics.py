"""Counts and times of requests, in Prometheus' text form. Names follow vLLM's under our own prefix.

Pure Python; every method is called on the event loop. Nothing here knows HTTP or engines: `render` is given the numbers
of the moment by whoever has them.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Histogram", "Metrics"]

_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_WHOLE = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Histogram:
    """Observations in buckets."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Takes an observation in."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def lines(self, name: str) -> list[str]:
        """Prometheus' text form."""
        lines, so_far = [], 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            so_far += count
            lines.append(f'{name}_bucket{{le="{bound:g}"}} {so_far}')
        lines.append(f'{name}_bucket{{le="+Inf"}} {self.count}')
        return [*lines, f"{name}_sum {self.total:g}", f"{name}_count {self.count}"]


class Metrics:
    """What happened since the server started."""

    def __init__(self) -> None:
        self.first = Histogram(_FIRST)
        self.between = Histogram(_TOKEN)
        self.whole = Histogram(_WHOLE)
        self.prompt_sizes = Histogram(_COUNTS)
        self.answer_sizes = Histogram(_COUNTS)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.reasons: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.responses: Counter[tuple[str, int]] = Counter()

    def first_token(self, seconds: float, prompt: int, cached: int) -> None:
        """A request's first token came."""
        self.first.add(seconds)
        self.prompt_sizes.add(prompt)
        self.prompt_tokens += prompt
        self.cached_tokens += cached

    def next_token(self, seconds: float) -> None:
        """Another one, `seconds` after the one before."""
        self.between.add(seconds)

    def finished(self, reason: str, tokens: int, seconds: float) -> None:
        """A request ended as it should."""
        self.reasons[reason] += 1
        self.answer_sizes.add(tokens)
        self.completion_tokens += tokens
        self.whole.add(seconds)

    def cancelled(self) -> None:
        """A client left."""
        self.reasons["abort"] += 1

    def failed(self, error: BaseException) -> None:
        """A request ended with an error."""
        self.reasons["error"] += 1
        self.errors[type(error).__name__] += 1

    def response(self, path: str, status: int) -> None:
        """A reply was sent; `path` is a route's, not a client's."""
        self.responses[path, status] += 1

    def render(self, now: Mapping[str, tuple[str, float]]) -> str:
        """Everything as text; `now` has gauges: name -> (help, value)."""
        lines: list[str] = []

        def block(name: str, kind: str, help: str, rows: Sequence[str]) -> None:
            lines.extend([f"# HELP mlx_lm:{name} {help}", f"# TYPE mlx_lm:{name} {kind}", *rows])

        histograms: Sequence[tuple[str, str, Histogram]] = (
            ("time_to_first_token_seconds", "Seconds until the first token.", self.first),
            ("inter_token_latency_seconds", "Seconds between tokens.", self.between),
            ("e2e_request_latency_seconds", "Seconds of whole requests.", self.whole),
            ("request_prompt_tokens", "Tokens of prompts.", self.prompt_sizes),
            ("request_generation_tokens", "Tokens of answers.", self.answer_sizes),
        )
        for name, help, histogram in histograms:
            block(name, "histogram", help, histogram.lines(f"mlx_lm:{name}"))
        counters = (
            ("prompt_tokens_total", "Tokens of all prompts.", self.prompt_tokens),
            ("prefix_cache_hits_total", "Prompt tokens that were not computed again.", self.cached_tokens),
            ("prefix_cache_queries_total", "Prompt tokens that were looked up.", self.prompt_tokens),
            ("generation_tokens_total", "Tokens of all answers.", self.completion_tokens),
        )
        for name, help, value in counters:
            block(name, "counter", help, [f"mlx_lm:{name} {value}"])
        labelled: Sequence[tuple[str, str, Any]] = (
            ("request_success_total", "finished_reason", self.reasons),
            ("request_errors_total", "error", self.errors),
        )
        for name, label, counter in labelled:
            rows = [f'mlx_lm:{name}{{{label}="{key}"}} {count}' for key, count in sorted(counter.items())]
            block(name, "counter", f"Requests by {label.replace('_', ' ')}.", rows)
        rows = [
            f'mlx_lm:http_requests_total{{handler="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.responses.items())
        ]
        block("http_requests_total", "counter", "Replies by route and status.", rows)
        for name, (help, value) in now.items():
            block(name, "gauge", help, [f"mlx_lm:{name} {value:g}"])
        return "\n".join(lines) + "\n"
