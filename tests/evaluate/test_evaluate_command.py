"""The evaluate command without lm-eval."""

import importlib.util

import pytest

from mlx_lm.cli.evaluate import main


def test_without_lm_eval_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else find(name, *a))
    assert main(["--model", "smollm2", "--tasks", "arc_easy"]) == 1
    assert "pip install 'mlx-lm[evaluate]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--model", "x"], ["--model", "x", "--tasks", "a", "--max-tokens", "0"]])
def test_wrong_arguments(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
