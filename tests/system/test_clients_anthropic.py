"""The official `anthropic` client against a real server: a tiny model for forms and counts, SmolLM2 for sense."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from model_folders import write_model
from server.conftest import RunningServer, running

from mlx_lm.server.options import ServerSettings

anthropic = pytest.importorskip("anthropic")

HELLO: list[Any] = [{"role": "user", "content": "Hello there, how are you today?"}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = write_model(tmp_path_factory.mktemp("anthropic") / "tiny", "llama")
    with running(
        ServerSettings(model_id=str(folder), port=0, aliases={"claude-*": "tiny", "claude-small": "tiny"})
    ) as server:
        yield server


def client_of(server: RunningServer) -> Any:
    return anthropic.Anthropic(base_url=server.url, api_key="local", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with client_of(server) as client:
        yield client


@pytest.fixture
def smol_client(smol: RunningServer) -> Iterator[Any]:
    with client_of(smol) as client:
        yield client


@pytest.fixture
def coder_client(coder: RunningServer) -> Iterator[Any]:
    with client_of(coder) as client:
        yield client


def test_a_message(client: Any) -> None:
    message = client.messages.create(model="tiny", max_tokens=8, messages=HELLO)
    assert (message.type, message.role, message.model) == ("message", "assistant", "tiny")
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 8
    assert message._request_id.startswith("req_")


def test_a_stream_is_the_same_message(client: Any) -> None:
    asked = {"model": "claude-local", "max_tokens": 12, "messages": HELLO}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert message.content[0].text == text == whole.content[0].text
    assert (message.model, message.stop_reason) == ("claude-local", "max_tokens")
    counts = message.usage
    assert counts.input_tokens + counts.cache_read_input_tokens == sum(
        (whole.usage.input_tokens, whole.usage.cache_read_input_tokens)
    )


def test_counted_tokens_are_those_of_the_prompt(client: Any) -> None:
    asked = {"model": "tiny", "messages": HELLO, "system": [{"type": "text", "text": "Be brief."}]}
    counted = client.messages.count_tokens(**asked).input_tokens
    used = client.messages.create(**asked, max_tokens=1).usage
    assert counted == used.input_tokens + used.cache_read_input_tokens > 0


def test_stop_sequences(client: Any) -> None:
    asked = {"model": "tiny", "max_tokens": 30, "messages": HELLO}
    text = client.messages.create(**asked).content[0].text
    stop = text[5:8]
    message = client.messages.create(**asked, stop_sequences=[stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == text[: text.index(stop)]


def test_an_answer_is_continued(client: Any) -> None:
    message = client.messages.create(
        model="tiny", max_tokens=4, messages=[*HELLO, {"role": "assistant", "content": "I am"}]
    )
    assert message.usage.output_tokens == 4


def test_models(client: Any) -> None:
    page = client.models.list(limit=1)
    assert [model.id for model in page] == ["tiny", "claude-small"]
    assert client.models.retrieve("tiny").max_input_tokens == 4096


def test_typed_errors(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nix", max_tokens=1, messages=HELLO)
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4096 maximum"):
        client.messages.create(model="tiny", max_tokens=1, messages=[{"role": "user", "content": "long " * 5000}])
    with pytest.raises(anthropic.BadRequestError, match="images are not supported"):
        source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
        content: Any = [{"type": "image", "source": source}]
        client.messages.create(model="tiny", max_tokens=1, messages=[{"role": "user", "content": content}])
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nix")


def test_a_client_that_leaves_frees_its_place(server: RunningServer, client: Any) -> None:
    with client.messages.stream(model="tiny", max_tokens=3000, messages=HELLO) as stream:
        next(iter(stream.text_stream))
    server.idle()


@pytest.fixture(scope="module")
def smol() -> Iterator[RunningServer]:
    with running(ServerSettings(model_id="smollm2", port=0)) as server:
        yield server


@pytest.mark.real_model
def test_smollm2_answers_and_remembers(smol_client: Any) -> None:
    client = smol_client
    question: Any = {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}
    first = client.messages.create(model="smollm2", max_tokens=30, messages=[question])
    assert "Paris" in first.content[0].text and first.stop_reason == "end_turn"
    turn = [{**question, "content": "What is the capital of France?"}, {"role": "assistant", "content": first.content}]
    more: Any = [*turn, {"role": "user", "content": "And of Italy?"}]
    second = client.messages.create(model="smollm2", max_tokens=30, messages=more)
    assert "Rome" in second.content[0].text


@pytest.mark.real_model
def test_smollm2_writes_what_the_schema_says(smol_client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "capital": {"type": "boolean"}},
        "required": ["city", "capital"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    question: Any = [{"role": "user", "content": "The capital of France, as JSON?"}]
    message = smol_client.messages.create(model="smollm2", max_tokens=60, messages=question, output_config=config)
    assert json.loads(message.content[0].text)["city"] in ("Paris", "Rome")


@pytest.fixture(scope="module")
def coder() -> Iterator[RunningServer]:
    with running(ServerSettings(model_id="qwen2.5-coder-1.5b", port=0)) as server:
        yield server


@pytest.mark.real_model("qwen2.5-coder-1.5b")
@pytest.mark.parametrize(
    "choice", [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_weather"}]
)
def test_a_tool_that_must_be_called_is_called(coder_client: Any, choice: Any) -> None:
    client = coder_client
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]
    asked: dict[str, Any] = {"model": "qwen2.5-coder-1.5b", "max_tokens": 60, "tools": [WEATHER]}
    with client.messages.stream(**asked, messages=messages, tool_choice=choice) as stream:
        message = stream.get_final_message()
    call = message.content[-1]
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "get_weather")
    assert call.input == {"city": "Rome"}
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain, 12 degrees."}
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(**asked, messages=messages)
    assert answer.stop_reason in ("end_turn", "max_tokens", "tool_use") and answer.content
