"""`mlx_lm.generate` on tiny models: prompts, output, limits, caches, refusals."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_lm.cli.generate import main

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *argv: str) -> tuple[str, str]:
    """(stdout, stderr) of a run that succeeds."""
    assert main(list(argv)) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def run_json(capsys: Capture, *argv: str) -> dict[str, Any]:
    return json.loads(run(capsys, *argv, "--json")[0])


def fails(capsys: Capture, *argv: str) -> str:
    """The one line on stderr of a run that fails."""
    assert main(list(argv)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_text_to_stdout_statistics_to_stderr(tiny: str, capsys: Capture) -> None:
    out, err = run(capsys, "--model", tiny, "-p", "the fox", "-m", "8")
    assert out.endswith("\n") and len(out) > 8
    assert "Prompt: " in err and "Generation: 8 tokens" in err
    assert "--max-tokens 8" in err
    quiet, err = run(capsys, "--model", tiny, "-p", "the fox", "-m", "8", "--verbose", "False")
    assert quiet == out
    assert err.startswith("Stopped by --max-tokens 8") and err.count("\n") == 1


def test_no_limit_runs_to_the_context_and_says_so(make_model: Callable[..., str], capsys: Capture) -> None:
    model = make_model("short")
    found = run_json(capsys, "--model", model, "-p", "fox")
    assert found["finish_reason"] == "length"
    assert found["prompt_tokens"] + found["generation_tokens"] == 48
    _, err = run(capsys, "--model", model, "-p", "fox")
    assert "context, 48 tokens" in err
    assert "48" in fails(capsys, "--model", model, "-p", "0 1 2 " * 40)


@pytest.mark.parametrize("limit", ["0", "-2", "many"])
def test_impossible_limits(tiny: str, limit: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--model", tiny, "-m", limit])
    assert error.value.code == 2
    assert limit in capsys.readouterr().err


def test_prompt_sources_agree(tiny: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ("--model", tiny, "-m", "4", "--verbose", "0")
    file = tmp_path / "prompt.txt"
    file.write_text("a\nb\tc")
    wanted = run(capsys, *base, "--prompt-file", str(file))[0]
    assert run(capsys, *base, "-p", "a\\nb\\tc")[0] == wanted
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\tc"))
    assert run(capsys, *base, "-p", "-")[0] == wanted
    counts = [run_json(capsys, *base, "-p", "a\\nb", *extra)["prompt_tokens"] for extra in ([], ["--raw-prompt"])]
    assert counts[1] > counts[0]
    assert "missing.txt" in fails(capsys, *base, "--prompt-file", str(tmp_path / "missing.txt"))


def test_template_options(make_model: Callable[..., str], capsys: Capture) -> None:
    from mlx_lm import load

    model = make_model()
    tokenizer = load(model)[1]
    base = ("--model", model, "-m", "2", "-p", "fox")

    def count(*extra: str) -> int:
        return run_json(capsys, *base, *extra)["prompt_tokens"]

    user = {"role": "user", "content": "fox"}
    assert count() == len(tokenizer.apply_chat_template([user], add_generation_prompt=True))
    assert count("--ignore-chat-template") == len(tokenizer.encode("fox"))
    system = {"role": "system", "content": "model"}
    assert count("--system-prompt", "model") == len(
        tokenizer.apply_chat_template([system, user], add_generation_prompt=True)
    )
    begun = [user, {"role": "assistant", "content": "the"}]
    assert count("--prefill-response", "the") == len(tokenizer.apply_chat_template(begun, continue_final_message=True))
    assert "--system-prompt" in fails(capsys, *base, "--ignore-chat-template", "--system-prompt", "x")


def test_model_without_template(make_model: Callable[..., str], capsys: Capture) -> None:
    model = make_model(template=False)
    base = ("--model", model, "-m", "2", "-p", "fox")
    plain = run_json(capsys, *base)["prompt_tokens"]
    assert run_json(capsys, *base, "--use-default-chat-template")["prompt_tokens"] > plain
    assert "--use-default-chat-template" in fails(capsys, *base, "--system-prompt", "x")


def test_stop_strings_and_end_tokens(tiny: str, capsys: Capture) -> None:
    base = ("--model", tiny, "-m", "12", "-p", "fox")
    whole = run_json(capsys, *base)
    stop = whole["text"][5:8]
    found = run_json(capsys, *base, "--stop", "never there", "--stop", stop)
    assert found["finish_reason"] == "stop"
    assert found["text"] == whole["text"][: whole["text"].index(stop)]
    token = whole["tokens"][3]
    found = run_json(capsys, *base, "--extra-eos-token", str(token))
    assert found["tokens"] == whole["tokens"][: whole["tokens"].index(token) + 1]
    assert found["finish_reason"] == "stop"
    assert "nonsense token" in fails(capsys, *base, "--extra-eos-token", "nonsense token")


def test_json_with_logprobs(tiny: str, capsys: Capture) -> None:
    found = run_json(capsys, "--model", tiny, "-m", "4", "-p", "fox", "--logprobs", "3")
    assert len(found["logprobs"]) == len(found["tokens"]) == 4
    for entry, token in zip(found["logprobs"], found["tokens"], strict=True):
        values = [other["logprob"] for other in entry["top"]]
        assert entry["id"] == token and values == sorted(values, reverse=True) and len(values) == 3
        assert entry["logprob"] == values[0]  # greedy
    assert "--json" in fails(capsys, "--model", tiny, "--logprobs")


def test_sampling_options_do_something(tiny: str, capsys: Capture) -> None:
    base = ("--model", tiny, "-m", "16", "-p", "fox")
    greedy = run_json(capsys, *base)["tokens"]
    assert run_json(capsys, *base, "--repetition-penalty", "5")["tokens"] != greedy
    assert run_json(capsys, *base, "--presence-penalty", "50", "--presence-context-size", "0")["tokens"] != greedy
    assert run_json(capsys, *base, "--frequency-penalty", "50")["tokens"] != greedy
    assert greedy[0] not in run_json(capsys, *base, "--logit-bias", f'{{"{greedy[0]}": -100}}')["tokens"]
    hot = ("--temp", "2", "--seed")
    assert run_json(capsys, *base, *hot, "1")["tokens"] == run_json(capsys, *base, *hot, "1")["tokens"]
    assert run_json(capsys, *base, *hot, "1")["tokens"] != run_json(capsys, *base, *hot, "2")["tokens"]
    assert run_json(capsys, *base, *hot, "1", "--top-k", "1")["tokens"] == greedy
    assert run_json(capsys, *base, *hot, "1", "--typical-p", "0.1", "--xtc-probability", "0.5")["tokens"]
    assert "top_p" in fails(capsys, *base, *hot, "1", "--top-p", "1.5")


def test_kv_options(tiny: str, capsys: Capture) -> None:
    base = ("--model", tiny, "-m", "8", "-p", "the quick brown fox jumps over the lazy dog", "--verbose", "0")
    assert run(capsys, *base, "--prefill-step-size", "3")[0] == run(capsys, *base)[0]
    assert run(capsys, *base, "--max-kv-size", "16")[0] != run(capsys, *base)[0]
    assert "kv_bits" in fails(capsys, *base, "--kv-bits", "7")


def test_speculation_gives_the_same_text(make_model: Callable[..., str], capsys: Capture) -> None:
    base = ("--model", make_model(), "-m", "16", "-p", "fox", "--verbose", "0")
    draft = ("--draft-model", make_model(seed=8), "--num-draft-tokens", "2")
    for way in (draft, ("--prompt-lookup-num-tokens", "4"), ("--auto-speculative",)):
        for more in ((), ("--logit-bias", '{"5": 3}'), ("--repetition-penalty", "1.3"), ("--temp", "1", "--seed", "3")):
            assert run(capsys, *base, *way, *more)[0] == run(capsys, *base, *more)[0]
    assert "--prompt-lookup-num-tokens" in fails(capsys, *base, *draft, "--prompt-lookup-num-tokens", "4")
    assert "--auto-speculative" in fails(capsys, *base, *draft, "--auto-speculative")


@pytest.mark.parametrize(("option", "value"), [("--image", "a.png"), ("--quantize-activations", None)])
def test_refused_by_name(option: str, value: str | None, capsys: Capture) -> None:
    argv = [option] if value is None else [option, value]
    assert option in fails(capsys, "--model", "never-loaded", *argv)


def test_errors_are_one_line_unless_debug(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.errors import ModelNotFoundError

    assert "no/such/model" in fails(capsys, "--model", "no/such/model")
    with pytest.raises(ModelNotFoundError):
        main(["--model", "no/such/model", "--debug"])
    monkeypatch.setenv("MLX_LM_DEBUG", "1")
    with pytest.raises(ModelNotFoundError):
        main(["--model", "no/such/model"])


def _start(*argv: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlx_lm.generate", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def test_broken_pipe_is_quiet(tiny: str) -> None:
    with _start("--model", tiny, "-p", "fox") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupt(tiny: str) -> None:
    with _start("--model", tiny, "-p", "fox") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read().strip() == b""
    assert process.returncode == 130


@pytest.mark.real_model("smollm2")
def test_packaged_model_answers(capsys: Capture) -> None:
    out, _ = run(capsys, "--model", "smollm2", "-p", "What is the capital of France?", "-m", "8", "--verbose", "0")
    assert out.strip() == "The capital of France is Paris."


def test_an_answer_to_a_plain_prompt_needs_few_modules(tiny: str) -> None:
    spared = ("numpy", "huggingface_hub", "transformers", "mlx_lm.tokenizer.parsers", "mlx_lm.grammar.compiler")
    program = (
        "import sys\n"
        "from mlx_lm.cli.generate import main\n"
        "main(sys.argv[1:])\n"
        f"sys.exit(', '.join(m for m in {spared!r} if m in sys.modules) or 0)\n"
    )
    command = [sys.executable, "-c", program, "--model", tiny, "-p", "fox", "-m", "2", "--verbose", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_broken_tokenizer_is_one_line_on_stderr(tiny: str, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny, folder)
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer.json" in fails(capsys, "--model", str(folder), "-p", "fox")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in fails(capsys, "--model", str(folder), "-p", "fox")
