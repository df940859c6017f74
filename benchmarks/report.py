"""Medians, ratios and the table. Pure arithmetic on samples; knows nothing of processes.

A ratio is always how many times better ours is: ours / theirs for speeds, theirs / ours for seconds and bytes.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["LABELS", "Row", "Summary", "advantage", "best", "cells", "markdown", "plain", "summarize"]

LABELS = {
    "decode": ("decode", "tok/s"),
    "prefill": ("prefill", "tok/s"),
    "batch8": ("batch decode", "tok/s"),
    "ttft": ("first token", "s"),
    "rss": ("peak memory", "MB"),
}
_LESS_IS_BETTER = ("ttft", "rss")
HEADER = ("work", "engine", "median (min-max)", "exact better by", "int8 better by", "remark")


@dataclass(frozen=True)
class Summary:
    """Median and extremes of the rounds of one measurement."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass
class Row:
    """One engine's samples of one measurement of one format; `failure` says why there are none."""

    form: str
    what: str
    family: str
    label: str
    mode: str = ""
    note: str = ""
    samples: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def summary(self) -> Summary | None:
        """None when nothing was measured."""
        return summarize(self.samples) if self.samples else None


def summarize(samples: Sequence[float]) -> Summary:
    """Raises ValueError for no samples."""
    if not samples:
        raise ValueError("no samples")
    return Summary(statistics.median(samples), min(samples), max(samples), len(samples))


def advantage(what: str, ours: float, theirs: float) -> float:
    """How many times better `ours` is."""
    return theirs / ours if what in _LESS_IS_BETTER else ours / theirs


def best(what: str, rows: Iterable[Row]) -> Row | None:
    """The row with the best median, of those that have one."""
    measured = [(row.summary.median, row) for row in rows if row.summary is not None]
    choose = min if what in _LESS_IS_BETTER else max
    return choose(measured, key=lambda pair: pair[0])[1] if measured else None


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _value(row: Row) -> str:
    found = row.summary
    if found is None:
        return "no result"
    scale = 1e-6 if row.what == "rss" else 1.0
    median, low, high = (_number(v * scale) for v in (found.median, found.low, found.high))
    spread = f" ({low}-{high})" if found.rounds > 1 else ""
    return f"{median}{spread} {LABELS[row.what][1]}"


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table's lines, a tuple for each row under HEADER, in the order given; llama.cpp's best quant has a star."""
    table = []
    for row in rows:
        group = [r for r in rows if (r.form, r.what) == (row.form, row.what)]
        star = best(row.what, [r for r in group if r.family == "llama.cpp"]) is row
        ratios = []
        for mode in ("exact", "int8"):
            ours = next((r.summary for r in group if r.family == "ours" and r.mode == mode), None)
            peer = row.summary if row.family != "ours" else None
            ratios.append(
                "" if ours is None or peer is None else f"{advantage(row.what, ours.median, peer.median):.2f}x"
            )
        work = f"{row.form} {LABELS[row.what][0]}"
        note = "; ".join(part for part in (row.failure, row.note) if part)
        table.append((work, row.label + (" *" if star else ""), _value(row), *ratios, note))
    return table


def plain(table: Sequence[Sequence[str]]) -> str:
    """The table in columns for a terminal."""
    lines = [HEADER, *table]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *table]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
