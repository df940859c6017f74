"""The arithmetic of the benchmark tables: medians, ratios, the best quant, and both layouts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.report import HEADER, Row, advantage, best, cells, markdown, plain, summarize


def _rows(what: str, exact: list[float], int8: list[float], peers: dict[str, list[float]]) -> list[Row]:
    rows = [
        Row("4bit", what, "ours", "ours, exact", "exact", samples=exact),
        Row("4bit", what, "ours", "ours, int8", "int8", samples=int8),
    ]
    for label, samples in peers.items():
        rows.append(Row("4bit", what, label.partition(" ")[0], label, samples=samples))
    return rows


def test_summary() -> None:
    found = summarize([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, 3)
    assert summarize([1.0, 2.0]).median == 1.5
    with pytest.raises(ValueError, match="no samples"):
        summarize([])


@pytest.mark.parametrize(
    ("what", "ours", "theirs", "ratio"),
    [("decode", 200, 100, 2), ("prefill", 50, 100, 0.5), ("ttft", 0.5, 2, 4), ("rss", 200e6, 100e6, 0.5)],
)
def test_a_ratio_above_one_is_always_better(what: str, ours: float, theirs: float, ratio: float) -> None:
    assert advantage(what, ours, theirs) == ratio


def test_best_quant_by_direction() -> None:
    rows = [Row("4bit", "x", "llama.cpp", "a", samples=[1, 9, 2]), Row("4bit", "x", "llama.cpp", "b", samples=[3])]
    failed = Row("4bit", "x", "llama.cpp", "c", failure="exit status 1")
    chosen = [best(what, [*rows, failed]) for what in ("decode", "ttft")]
    assert [row.label for row in chosen if row] == ["b", "a"]
    assert best("decode", [failed]) is None


def test_cells() -> None:
    rows = _rows(
        "decode", [110, 90, 100], [200], {"mlx-lm 0.32.2": [1.25], "llama.cpp Q4_0": [80], "llama.cpp Q4_1": [40]}
    )
    rows[2].note = "8 tokens"
    assert cells(rows) == [
        ("4bit decode", "ours, exact", "100 (90.0-110) tok/s", "", "", ""),
        ("4bit decode", "ours, int8", "200 tok/s", "", "", ""),
        ("4bit decode", "mlx-lm 0.32.2", "1.25 tok/s", "80.00x", "160.00x", "8 tokens"),
        ("4bit decode", "llama.cpp Q4_0 *", "80.0 tok/s", "1.25x", "2.50x", ""),
        ("4bit decode", "llama.cpp Q4_1", "40.0 tok/s", "2.50x", "5.00x", ""),
    ]


def test_memory_is_shown_in_megabytes() -> None:
    table = cells(_rows("rss", [200e6], [200e6], {"llama.cpp Q4_0": [150e6]}))
    assert [line[2] for line in table] == ["200 MB", "200 MB", "150 MB"]
    assert table[-1][3] == "0.75x"


def test_ratios_stay_within_a_format_and_a_measurement() -> None:
    rows = [
        Row("4bit", "decode", "ours", "ours, exact", "exact", samples=[100]),
        Row("bf16", "decode", "llama.cpp", "llama.cpp BF16", samples=[50]),
        Row("4bit", "prefill", "llama.cpp", "llama.cpp Q4_0", samples=[50]),
    ]
    assert [line[3] for line in cells(rows)] == ["", "", ""]


def test_a_failure_is_in_the_table() -> None:
    rows = _rows("decode", [], [10], {"llama.cpp Q4_0": [5]})
    rows[0].failure = "more than 60 s"
    table = cells(rows)
    assert table[0][2:] == ("no result", "", "", "more than 60 s")
    assert table[2][3:5] == ("", "2.00x")


def test_layouts() -> None:
    table = cells(_rows("ttft", [0.5], [0.5], {"mlx-lm 0.32.2": [5]}))
    lines = plain(table).splitlines()
    assert len(lines) == 4 and lines[3].split()[-2:] == ["10.00x", "10.00x"]
    marked = markdown(table).splitlines()
    assert marked[0] == "| " + " | ".join(HEADER) + " |" and marked[1].count("---") == len(HEADER)
    assert marked[4] == "| 4bit first token | mlx-lm 0.32.2 | 5.00 s | 10.00x | 10.00x |  |"
