"""`mlx_lm.cache_prompt`, and going on from its files in generate and chat."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_lm import load
from mlx_lm.cli import cache_prompt, chat, generate
from mlx_lm.models.cache import make_prompt_cache, save_prompt_cache

Capture = pytest.CaptureFixture[str]
TEXT = "The quick brown fox jumps over the lazy dog. "


def make(capsys: Capture, file: Path, model: str, *extra: str) -> str:
    argv = ["--model", model, "--prompt-cache-file", str(file), "--prompt", TEXT, *extra]
    assert cache_prompt.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and file.is_file()
    return captured.err


def ask(capsys: Capture, *argv: str) -> dict[str, Any]:
    assert generate.main([*argv, "-m", "16", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys: Capture, *argv: str) -> str:
    assert generate.main(list(argv)) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", ["llama", "window", "hybrid"])
@pytest.mark.parametrize("extra", [[], ["--ignore-chat-template"], ["--system-prompt", "A role."]], ids=str)
def test_same_answer_as_without_a_file(
    make_model: Callable[..., str], kind: str, extra: list[str], tmp_path: Path, capsys: Capture
) -> None:
    file, model = tmp_path / "p.safetensors", make_model(kind)
    assert "tokens" in make(capsys, file, model, *extra)
    for question in ("who jumps", "and numbers 0 1 2"):
        warm = ask(capsys, "--prompt-cache-file", str(file), "-p", question)
        cold = ask(capsys, "--model", model, "-p", TEXT + question, *extra)
        assert warm["text"] == cold["text"]
        assert warm["cached_tokens"] > 10 and warm["prompt_tokens"] - warm["cached_tokens"] < 40


def test_prefill_and_penalties_with_a_file(tiny: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "p.safetensors"
    make(capsys, file, tiny)
    options = ("--prefill-response", "the", "--presence-penalty", "3", "--presence-context-size", "0")
    warm = ask(capsys, "--prompt-cache-file", str(file), "-p", "who", *options)
    assert warm["text"] == ask(capsys, "--model", tiny, "-p", TEXT + "who", *options)["text"]


def test_refusals(make_model: Callable[..., str], tmp_path: Path, capsys: Capture) -> None:
    file, model = tmp_path / "p.safetensors", make_model()
    make(capsys, file, model, "--kv-bits", "8", "--kv-group-size", "32")
    base = ("--prompt-cache-file", str(file))
    assert "not with" in fails(capsys, *base, "--model", make_model("window"))
    assert "--kv-bits 8" in fails(capsys, *base, "--kv-bits", "4")
    assert "--max-kv-size" in fails(capsys, *base, "--max-kv-size", "64")
    assert "--system-prompt" in fails(capsys, *base, "--system-prompt", "x")
    assert ask(capsys, *base, "--kv-bits", "8", "--model", model)["text"]
    make(capsys, file, model)
    packed = ("--kv-bits", "8", "--kv-group-size", "32", "--quantized-kv-start", "0")
    assert ask(capsys, *base, *packed)["text"]
    assert "does not exist" in fails(capsys, "--prompt-cache-file", str(tmp_path / "none"))
    assert "without a draft model" in fails(capsys, *base, "--draft-model", make_model(seed=8))


def test_other_weights_under_the_same_name(make_model: Callable[..., str], tmp_path: Path, capsys: Capture) -> None:
    import shutil

    folder, file = tmp_path / "model", tmp_path / "p.safetensors"
    shutil.copytree(make_model(), folder)
    make(capsys, file, str(folder))
    shutil.copy(Path(make_model(seed=8)) / "model.safetensors", folder / "model.safetensors")
    assert "other weights" in fails(capsys, "--prompt-cache-file", str(file))


def test_files_of_the_python_api(tiny: str, tmp_path: Path, capsys: Capture) -> None:
    from mlx_lm import generate as api_generate

    file = tmp_path / "p.safetensors"
    model, tokenizer = load(tiny)
    cache = make_prompt_cache(model)
    api_generate(model, tokenizer, "<|im_start|>user\nthe fox", max_tokens=1, prompt_cache=cache)
    save_prompt_cache(file, cache, {"model": tiny})
    assert ask(capsys, "--prompt-cache-file", str(file), "-p", " and the dog")["text"]
    save_prompt_cache(file, cache)
    assert "--model" in fails(capsys, "--prompt-cache-file", str(file))
    file.write_bytes(b"junk")
    assert "p.safetensors" in fails(capsys, "--prompt-cache-file", str(file))


@pytest.mark.parametrize("kind", ["llama", "hybrid"])
def test_chat_goes_on(
    make_model: Callable[..., str], kind: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, model = tmp_path / "p.safetensors", make_model(kind)
    make(capsys, file, model, "--system-prompt", "A role.")
    monkeypatch.setattr("sys.stdin", io.StringIO("who jumps\nand then\n"))
    assert chat.main(["--prompt-cache-file", str(file), "-m", "8", "--verbose", "1"]) == 0
    warm = capsys.readouterr()
    lines = f"{TEXT}who jumps\nand then\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert chat.main(["--model", model, "-m", "8", "--system-prompt", "A role."]) == 0
    assert warm.out == capsys.readouterr().out
    if kind == "llama":
        assert " 0 of them reused" not in warm.err


def test_unwritable_file_and_long_prompt(make_model: Callable[..., str], tmp_path: Path, capsys: Capture) -> None:
    argv = ["--model", make_model("short"), "--prompt-cache-file", str(tmp_path / "no" / "p.safetensors"), "--prompt"]
    assert cache_prompt.main([*argv, "fox"]) == 1
    assert "--prompt-cache-file" in capsys.readouterr().err
    assert cache_prompt.main([*argv, "0 1 2 " * 40]) == 1
    assert "48" in capsys.readouterr().err
