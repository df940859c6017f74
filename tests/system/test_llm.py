"""The `llm` plugin of mlx_lm, end to end: the command, its options, conversations, schemas, tools and its log.

Needs the peer package, and skips without it: pip install llm==0.36
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llm", reason="pip install llm==0.36")

import llm as llm_package
from llm_home import LLM, MODEL, plant_model

from mlx_lm import generate, load

PLUGIN = "mlx_lm.integrations.llm_plugin"
GREEDY = ("-o", "temperature", "0")

pytestmark = [pytest.mark.real_model("smollm2"), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = tmp_path_factory.mktemp("llm")
    plant_model(folder / "hf")
    return LLM((PLUGIN,), folder / "user", folder / "hf")


def test_the_entry_point_names_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["llm"] == {"mlx-lm": PLUGIN}


def test_llm_starts_without_mlx() -> None:
    code = f"import sys, {PLUGIN}; assert 'mlx.core' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cached_and_packaged_models_are_there(llm: LLM) -> None:
    models = llm.ok("models")
    for name in (MODEL, "smollm2", "qwen2.5-coder-1.5b", "gemma-3-270m"):
        assert f"MlxModel: {name}" in models
    assert "prefill" in llm.ok("models", "--options", "-m", MODEL)


def test_models_that_cannot_write_text_are_left_out(llm: LLM, tmp_path: Path) -> None:
    for name, config in (("whisper", '{"model_type": "whisper"}'), ("broken", "{"), ("odd", "[]")):
        snapshot = tmp_path / "hub" / f"models--someone--{name}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(config)
        (snapshot / "model.safetensors").write_bytes(bytes(8))
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    models = LLM(llm.plugins, llm.user, tmp_path).ok("models")
    assert "MlxModel: smollm2" in models and "someone" not in models


def test_chat_in_the_terminal(llm: LLM) -> None:
    said = llm.ok("chat", "-m", "smollm2", *GREEDY, "-o", "max_tokens", "8", stdin="Say hi.\nAgain.\nquit\n")
    assert "Chatting with smollm2" in said
    entries = json.loads(llm.ok("logs", "-n", "2", "--json"))
    assert entries[0]["conversation_id"] == entries[1]["conversation_id"]
    last = max(entries, key=lambda entry: entry["input_tokens"])
    assert json.loads(last["token_details"])["cached_tokens"] > 10


def test_the_seed_example(llm: LLM) -> None:
    said = llm.ok("-m", MODEL, "Say hi.", "-o", "unlimited", "true", *GREEDY)
    entry = llm.last_log()
    assert said.strip() == entry["response"].strip() != ""
    assert entry["response_json"]["finish_reason"] == "stop"


def test_nothing_is_cut_by_default_and_a_cut_is_told(llm: LLM) -> None:
    free = llm.run("-m", "smollm2", "Say hi to Bob.", *GREEDY)
    assert free.returncode == 0 and "cut" not in free.stderr
    assert llm.last_log()["response_json"]["finish_reason"] == "stop"
    short = llm.run("-m", "smollm2", "Say hi to Bob.", *GREEDY, "-o", "max_tokens", "5")
    assert short.returncode == 0 and "cut at max_tokens=5" in short.stderr and "unlimited" in short.stderr
    entry = llm.last_log()
    assert entry["output_tokens"] == 5 and entry["response_json"]["finish_reason"] == "length"
    assert free.stdout.startswith(short.stdout.strip())


def test_all_options_and_the_log(llm: LLM) -> None:
    words = "max_tokens=8 temperature=0.7 top_p=0.95 min_p=0.05 top_k=20 min_tokens_to_keep=2 seed=0 stop=zzz"
    words += (
        " repetition_penalty=1.1 presence_penalty=0.1 frequency_penalty=0.1 thinking=false kv_bits=8 max_kv_size=64"
    )
    options = [word for pair in words.split() for word in ("-o", *pair.split("="))]
    first = llm.ok("-m", "smollm2", "Tell a story.", "-s", "You are a bear.", *options)
    entry = llm.last_log()
    assert entry["system"] == "You are a bear." and entry["output_tokens"] == 8 and entry["input_tokens"] > 15
    assert entry["response_json"].keys() == {"prompt_tps", "generation_tps", "peak_memory", "finish_reason"}
    assert entry["response_json"]["generation_tps"] > 0 and entry["duration_ms"] > 0
    assert llm.ok("-m", "smollm2", "Tell a story.", "-s", "You are a bear.", *options) == first
    other = [word if word != "0" else "1" for word in options]
    assert llm.ok("-m", "smollm2", "Tell a story.", "-s", "You are a bear.", *other) != first


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_tokens", "0"), ("top_p", "2"), ("temperature", "-1"), ("colour", "red"), ("kv_bits", "7")],
)
def test_wrong_options_are_errors(llm: LLM, option: str, value: str) -> None:
    done = llm.run("-m", "smollm2", "hi", "-o", option, value)
    assert done.returncode == 1 and done.stderr.startswith("Error") and option in done.stderr


def test_an_unknown_option_names_the_one_that_was_meant(llm: LLM) -> None:
    for command in (("-m", "smollm2", "hi", "-o"), ("models", "options", "set", "smollm2")):
        assert "did you mean temperature?" in llm.run(*command, "temprature", "1").stderr


def test_prefill_begins_the_answer(llm: LLM) -> None:
    said = llm.ok("-m", "smollm2", "What is the capital of France?", *GREEDY, "-o", "prefill", "The capital is")
    assert said.startswith("The capital is") and "Paris" in said
    assert llm.last_log()["response"].startswith("The capital is")


def test_schemas_are_followed(llm: LLM) -> None:
    said = llm.ok("-m", "smollm2", "Invent a dog.", "--schema", "name, age int, friendly bool: likes people", *GREEDY)
    dog = json.loads(said)
    assert dog.keys() == {"name", "age", "friendly"}
    assert isinstance(dog["name"], str) and isinstance(dog["age"], int) and isinstance(dog["friendly"], bool)
    assert llm.last_log()["response_json"]["finish_reason"] == "stop"
    cut = llm.run("-m", "smollm2", "Invent a dog.", "--schema", "name, age int", *GREEDY, "-o", "max_tokens", "3")
    assert "cut at max_tokens=3" in cut.stderr
    for option in (("prefill", "{"), ("stop", "}")):
        refused = llm.run("-m", "smollm2", "Invent a dog.", "--schema", "name, age", "-o", *option)
        assert refused.returncode == 1 and f"{option[0]} cannot be combined with a schema" in refused.stderr
    both = llm.run("-m", "qwen2.5-coder-1.5b", "Invent a dog.", "--schema", "name, age", "-T", "llm_time")
    assert both.returncode == 1 and "Tools cannot be combined with a schema" in both.stderr
    unsupported = llm.run("-m", "smollm2", "x", "--schema", '{"type": "object", "minProperties": 3}')
    assert unsupported.returncode == 1 and "minProperties" in unsupported.stderr


def test_conversation_goes_on_with_its_history(llm: LLM) -> None:
    first, second = "My name is Annabel. Say hello to me.", "What is my name?"
    llm.ok("-m", "smollm2", first, "-s", "Be brief.", *GREEDY, "-o", "max_tokens", "16")
    before = llm.last_log()
    llm.ok("-c", second, *GREEDY, "-o", "max_tokens", "24")
    after = llm.last_log()
    assert after["conversation_id"] == before["conversation_id"]
    model, tokenizer = load("smollm2")[:2]
    talk = [("system", "Be brief."), ("user", first), ("assistant", before["response"]), ("user", second)]
    messages = [{"role": role, "content": text} for role, text in talk]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert after["input_tokens"] == len(prompt)
    assert after["response"] == generate(model, tokenizer, prompt, max_tokens=24)


def test_chat_computes_only_what_is_new(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.integrations.llm_model import MlxModel

    conversation = MlxModel("smollm2").conversation()
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    first = conversation.prompt("Name a colour.", **options)
    first.text()
    second = conversation.prompt("Another one.", **options)
    text = second.text()
    cached = second.usage().details["cached_tokens"]
    assert cached >= first.usage().input
    cold = MlxModel("smollm2").conversation()
    cold.responses = [first]
    again = cold.prompt("Another one.", **options)
    assert again.text() == text and again.usage().input == second.usage().input and not again.usage().details


def test_stored_default_options(llm: LLM) -> None:
    llm.ok("models", "default", "smollm2")
    done = llm.run("models", "options", "set", "smollm2", "unlimited", "true")
    assert "Set default option unlimited=true for model smollm2" in done.stderr
    llm.ok("Say hi.", *GREEDY, "-o", "max_tokens", "1")
    assert llm.last_log()["output_tokens"] > 1
    llm.ok("models", "options", "clear", "smollm2")


def test_models_are_registered_and_named(llm: LLM) -> None:
    llm.ok("mlx", "download-model", MODEL, "-a", "smol", "-a", "s")
    assert json.loads(llm.ok("mlx", "models")) == {MODEL: {"aliases": ["smol", "s"]}}
    file = Path(llm.ok("mlx", "models-file").strip())
    assert file.name == "llm-mlx.json" and json.loads(file.read_text()) == {MODEL: {"aliases": ["smol", "s"]}}
    assert llm.ok("-m", "smol", "hi", *GREEDY, "-o", "max_tokens", "3").strip()
    assert MODEL in llm.ok("mlx", "manage-models", stdin="0\n")
    llm.ok("mlx", "manage-models", stdin="1\ntiny\n0\n")
    assert json.loads(llm.ok("mlx", "models")) == {MODEL: {"aliases": ["tiny"]}}
    llm.ok("mlx", "manage-models", stdin="1\n-\n0\n")
    assert json.loads(llm.ok("mlx", "models")) == {}
    missing = llm.run("mlx", "download-model", "nobody/nothing")
    assert missing.returncode == 1 and "nobody/nothing" in missing.stderr
    file.write_text("[1]")
    broken = llm.run("-m", "smol", "hi")
    file.write_text("{}")
    assert broken.returncode == 1 and "llm-mlx.json" in broken.stderr


def test_stands_aside_for_llm_mlx(llm: LLM, tmp_path: Path) -> None:
    stand_in = tmp_path / "llm_mlx.py"
    stand_in.write_text("")
    both = LLM((PLUGIN, "llm_mlx"), llm.user, llm.hf_home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")
        assert "MlxModel" not in both.ok("models")
        assert both.run("mlx", "models").returncode != 0


def test_tools_need_a_model_that_calls_them(llm: LLM) -> None:
    done = llm.run("-m", "smollm2", "What time is it?", "-T", "llm_time")
    assert done.returncode == 1 and "tool" in done.stderr


@pytest.mark.slow
@pytest.mark.real_model("qwen2.5-coder-1.5b")
def test_tools_are_called(llm: LLM) -> None:
    code = "def multiply(x: int, y: int) -> int:\n    'Multiplies two numbers.'\n    return x * y\n"
    done = llm.run(
        *("-m", "qwen2.5-coder-1.5b", "Use the tool to compute 1234 times 4321.", "--functions", code, "--td"),
        *GREEDY,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert "multiply(" in done.stderr and "5332114" in done.stderr


def test_calls_and_reasoning_as_llm_sees_them() -> None:
    from mlx_lm.integrations.llm_messages import Answer
    from mlx_lm.tokenizer.parsers import FORMATS, STYLES, ParserChoice, StreamParser

    calls: list[Any] = []

    class Response:
        add_tool_call = staticmethod(calls.append)

    style = next(style for style in STYLES.values() if style.start == "<think>")
    parser = StreamParser(ParserChoice(style, FORMATS["json_tools"]), stream_arguments=False)
    answer = Answer(parser, Response())
    text = '<think>hm</think>Now:<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><tool_call>broken'
    events = [event for letter in text for event in answer.add(letter)] + list(answer.finish())
    assert "".join(event for event in events if isinstance(event, str)).strip() == "Now:<tool_call>broken"
    kinds = {event.type: event.chunk for event in events if not isinstance(event, str)}
    assert "".join(e.chunk for e in events if not isinstance(e, str) and e.type == "reasoning") == "hm"
    assert kinds["tool_call_name"] == "f" and json.loads(kinds["tool_call_args"]) == {"x": 1}
    assert [(call.name, call.arguments) for call in calls] == [("f", {"x": 1})]


def test_messages_as_templates_read_them() -> None:
    pytest.importorskip("llm.parts", reason="llm 0.31 has no parts")
    from llm.parts import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

    from mlx_lm.integrations.llm_messages import chat_messages
    from mlx_lm.integrations.llm_model import MlxModel

    model = MlxModel("smollm2")
    call = ToolCallPart(name="f", arguments={"x": 1}, tool_call_id="c1")
    messages = [
        Message("system", [TextPart("old")]),
        Message("user", [TextPart("a"), TextPart("b")]),
        Message("assistant", [ReasoningPart("hm"), call]),
        Message("tool", [ToolResultPart(name="f", output="2", tool_call_id="c1")]),
    ]
    assert chat_messages(llm_package.Prompt(None, model, messages=messages, system="new"), None) == [
        {"role": "system", "content": "new"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "name": "f", "tool_call_id": "c1", "content": "2"},
    ]


@pytest.mark.parametrize("text", ["dog\n", '{"type":"object"}'])
def test_a_model_without_template_continues_text(text: str) -> None:
    from mlx_lm.integrations.llm_messages import plain_text

    assert plain_text([{"role": "system", "content": ""}, {"role": "user", "content": text}]) == text
