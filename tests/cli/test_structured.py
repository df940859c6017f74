"""--schema, --regex, --choice, --grammar and --close-within-budget of mlx_lm.generate and mlx_lm.chat."""

import io
import json
import re
from pathlib import Path

import pytest

from mlx_lm.cli import chat, generate

Capture = pytest.CaptureFixture[str]
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]}


def answer(capsys: Capture, model: str, *argv: str) -> str:
    assert generate.main(["--model", model, "-p", "the fox", "--verbose", "false", "-m", "60", *argv]) == 0
    return capsys.readouterr().out


def refusal(capsys: Capture, *argv: str) -> str:
    assert generate.main(["--model", "no/such-model", "-p", "x", *argv]) == 1
    return capsys.readouterr().err


def test_schema_as_text_and_as_file(tiny: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    for value in (json.dumps(SCHEMA), str(file)):
        found = json.loads(answer(capsys, tiny, "--schema", value, "--close-within-budget"))
        assert set(found) == {"a", "b"}


def test_regex_and_choice(tiny: str, capsys: Capture) -> None:
    assert re.fullmatch(r"\d{3}-\d{2}\n", answer(capsys, tiny, "--regex", r"\d{3}-\d{2}"))
    assert answer(capsys, tiny, "--choice", "fox", "--choice", "a dog") in ("fox\n", "a dog\n")


@pytest.mark.parametrize("grammar", ['start: "x" "y"~2', 'root ::= "x" "y" "y"'])
def test_grammar_as_text_and_as_file(tiny: str, tmp_path: Path, grammar: str, capsys: Capture) -> None:
    file = tmp_path / "grammar.txt"
    file.write_text(grammar)
    assert answer(capsys, tiny, "--grammar", grammar) == "xyy\n"
    assert answer(capsys, tiny, "--grammar", str(file)) == "xyy\n"


def test_a_cut_structure_is_told(tiny: str, capsys: Capture) -> None:
    argv = ["--model", tiny, "-p", "fox", "-m", "2", "--schema", json.dumps(SCHEMA), "--json"]
    assert generate.main(argv) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["finish_reason"] == "length"
    assert "--close-within-budget" in captured.err


def test_refused_before_a_model_is_loaded(capsys: Capture) -> None:
    assert "'contains'" in refusal(capsys, "--schema", '{"contains": {}}')
    assert "look-around" in refusal(capsys, "--regex", "(?=a)")
    assert "no file" in refusal(capsys, "--schema", "missing.json")
    assert "no file" in refusal(capsys, "--grammar", "missing")
    assert "--close-within-budget needs" in refusal(capsys, "--close-within-budget")
    assert "--max-tokens" in refusal(capsys, "--close-within-budget", "--choice", "a")
    with pytest.raises(SystemExit):
        generate.main(["--regex", "a", "--choice", "b"])


def test_chat(tiny: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/retry\nagain\n/quit\n"))
    assert chat.main(["--model", tiny, "--choice", "yes", "--choice", "no"]) == 0
    lines = capsys.readouterr().out.split()
    assert len(lines) == 3 and set(lines) <= {"yes", "no"}
