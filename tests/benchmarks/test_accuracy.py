"""The benchmark of accuracy modes: its line, and what it refuses."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import accuracy


def test_the_change_is_that_of_the_mean_loss():
    line = accuracy.summary({"exact": [1.0, 3.0], "int8": [1.1, 3.3]}, 16)
    assert f"{math.exp(2.0):.4f} exact" in line and f"{math.exp(2.2):.4f} int8" in line
    assert f"{math.expm1(0.2):+.3%} (standard error 10.000%)" in line
    assert "error unknown" in accuracy.summary({"exact": [1.0], "int8": [1.1]}, 8)


@pytest.mark.parametrize("argv", [["--data-path", "nowhere.txt"], ["--model", "no-such-model", "--data-path", "x"]])
def test_wrong_names_end_in_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        accuracy.main(argv)
    assert stopped.value.code == 2
    assert "benchmarks.accuracy: error: " in capsys.readouterr().err
