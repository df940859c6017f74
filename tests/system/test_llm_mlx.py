"""llm-mlx 0.4 runs unmodified on mlx_lm.

Needs the peer packages, and skips without them: pip install llm==0.36 && pip install --no-deps llm-mlx==0.4
"""

import json
from pathlib import Path

import pytest

pytest.importorskip("llm", reason="pip install llm==0.36")
pytest.importorskip("llm_mlx", reason="pip install --no-deps llm-mlx==0.4")

from llm_home import LLM, MODEL, plant_model

pytestmark = [pytest.mark.real_model("smollm2"), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("llm")
    plant_model(folder / "hf")
    home = LLM(("llm_mlx",), folder / "user", folder / "hf")
    home.ok("mlx", "download-model", MODEL, "-a", "smol")
    return home


def test_download_registers_the_model_and_its_alias(llm: LLM) -> None:
    assert json.loads(llm.ok("mlx", "models")) == {MODEL: {"aliases": ["smol"]}}
    assert json.loads(Path(llm.ok("mlx", "models-file").strip()).read_text()) == {MODEL: {"aliases": ["smol"]}}
    assert f"MlxModel: {MODEL} (aliases: smol)" in llm.ok("models")


def test_prompt_with_options_and_log(llm: LLM) -> None:
    said = llm.ok(
        *("-m", "smol", "Count: one, two,", "-s", "You count.", "-o", "max_tokens", "12", "-o", "temperature", "0"),
        *("-o", "top_p", "0.9", "-o", "min_p", "0.1", "-o", "min_tokens_to_keep", "2", "-o", "seed", "7"),
    )
    entry = llm.last_log()
    assert entry["response"].strip() == said.strip() and said.strip()
    assert entry["output_tokens"] == 12 and entry["input_tokens"] > 10
    assert entry["response_json"].keys() == {"prompt_tps", "generation_tps", "peak_memory", "finish_reason"}
    assert entry["response_json"]["finish_reason"] == "length"


def test_greedy_is_what_mlx_lm_gives(llm: LLM) -> None:
    from mlx_lm import generate, load

    model, tokenizer = load("smollm2")[:2]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Say hello."}], add_generation_prompt=True)
    expected = generate(model, tokenizer, prompt, max_tokens=10)
    assert llm.ok("-m", "smol", "Say hello.", "-o", "temperature", "0", "-o", "max_tokens", "10").strip() == expected
    assert (
        llm.ok("-m", "smol", "Say hello.", "-o", "temperature", "0", "-o", "max_tokens", "10", "--no-stream").strip()
        == expected
    )


def test_unlimited_runs_to_the_end_of_the_answer(llm: LLM) -> None:
    llm.ok("-m", MODEL, "Say hi.", "-o", "unlimited", "true", "-o", "max_tokens", "2", "-o", "temperature", "0")
    entry = llm.last_log()
    assert entry["response_json"]["finish_reason"] == "stop" and entry["output_tokens"] > 2


def test_stored_default_option(llm: LLM) -> None:
    done = llm.run("models", "options", "set", "smol", "unlimited", "true")
    assert done.returncode == 0 and f"Set default option unlimited=true for model {MODEL}" in done.stderr
    llm.ok("-m", "smol", "Say hi.", "-o", "max_tokens", "2", "-o", "temperature", "0")
    assert llm.last_log()["response_json"]["finish_reason"] == "stop"
    llm.ok("models", "options", "clear", "smol")
    llm.ok("-m", "smol", "Say hi.", "-o", "max_tokens", "2", "-o", "temperature", "0")
    assert llm.last_log()["output_tokens"] == 2


@pytest.mark.parametrize(("option", "value"), [("max_tokens", "0"), ("top_p", "2"), ("colour", "red")])
def test_wrong_options_are_errors(llm: LLM, option: str, value: str) -> None:
    done = llm.run("-m", "smol", "hi", "-o", option, value)
    assert done.returncode == 1 and done.stderr.startswith("Error")


def test_conversation_in_process(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    import llm_mlx

    monkeypatch.setenv("HF_HUB_CACHE", str(llm.hf_home / "hub"))
    conversation = llm_mlx.MlxModel("smollm2").conversation()
    first = conversation.prompt("My name is Ann.", max_tokens=5, temperature=0)
    assert first.text()
    second = conversation.prompt("What is my name?", max_tokens=5, temperature=0)
    assert second.text()
    assert second.usage().input > first.usage().input + 5
