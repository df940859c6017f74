"""Structured output through OpenAI's own client, against a real server: what must parse, does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import served, served_tiny

openai = pytest.importorskip("openai")

HELLO: Any = [{"role": "user", "content": "Hello"}]
CITY: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with (
        served_tiny(tmp_path_factory.mktemp("openai")) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as found,
    ):
        yield found


def test_json_schema(client: Any) -> None:
    schema = {"name": "city", "schema": CITY, "strict": True}
    reply = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=200,
        temperature=1,
        seed=1,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert reply.choices[0].finish_reason == "stop"
    found = json.loads(reply.choices[0].message.content)
    assert set(found) == {"city", "warm"} and isinstance(found["warm"], bool)


@pytest.mark.parametrize("fields", [{"guided_choice": ["red", "blue"]}, {"structured_outputs": {"regex": "red|blue"}}])
def test_extra_body_constraints(client: Any, fields: Any) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=20, temperature=1, seed=2, extra_body=fields
    )
    assert reply.choices[0].message.content in ("red", "blue")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_forced_tool_call(client: Any, choice: Any) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}]
    options: Any = {
        "model": "tiny",
        "messages": HELLO,
        "tools": tools,
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "temperature": 1,
        "seed": 3,
    }
    reply = client.chat.completions.create(**options).choices[0]
    assert reply.finish_reason == "tool_calls"
    (call,) = reply.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "weather" and set(arguments) == {"city", "warm"}
    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == call.function.arguments


def test_responses(client: Any) -> None:
    text: Any = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    made = client.responses.create(model="tiny", input="Hello", temperature=1, max_output_tokens=200, text=text)
    assert set(json.loads(made.output_text)) == {"city", "warm"}
    tools: Any = [{"type": "function", "name": "weather", "parameters": CITY, "strict": True}]
    called = client.responses.create(
        model="tiny", input="Hello", tools=tools, tool_choice="required", temperature=1, max_output_tokens=300
    )
    assert json.loads(called.output[-1].arguments).keys() == {"city", "warm"}


@pytest.mark.real_model
def test_choice_of_a_real_model(tmp_path: Path) -> None:
    with (
        served("--model", "smollm2", folder=tmp_path) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        for prompt, words, right in (
            ("The capital of France is", [" London", " Paris", " Rome"], " Paris"),
            ("2, 4, 6,", [" 3", " 8"], " 8"),
        ):
            chosen = client.completions.create(
                model="smollm2", prompt=prompt, temperature=0, extra_body={"guided_choice": words}
            )
            assert chosen.choices[0].text == right and chosen.choices[0].finish_reason == "stop"
