"""The server with a real model: answers that make sense, calls that are made, prefixes that are not computed twice."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mlx_lm.server.core import ModelService
from mlx_lm.server.options import ServerSettings
from mlx_lm.server.run import HTTPServer

pytestmark = pytest.mark.real_model("smollm2")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server with SmolLM2."""
    ready = threading.Event()
    box: dict[str, Any] = {}

    async def run() -> None:
        settings = ServerSettings(model_id="smollm2", port=0)
        service = ModelService(settings, check=True)
        server = box["server"] = HTTPServer(settings, service)
        serving = asyncio.create_task(server.serve())
        while not (server.started and service.status()["ready"]) and not serving.done():
            await asyncio.sleep(0.01)
        box["url"] = f"http://127.0.0.1:{server.port}"
        ready.set()
        await serving
        await service.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(60)
    yield box["url"]
    box["server"].should_exit = True
    thread.join(30)


def _chat(url: str, text: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 40, "temperature": 0, **fields}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
    assert reply.status_code == 200, reply.text[:300]
    return reply.json()


def test_an_answer(url: str) -> None:
    reply = _chat(url, "What is the capital of France?")
    assert "Paris" in reply["choices"][0]["message"]["content"]
    assert reply["choices"][0]["finish_reason"] in ("stop", "length") and reply["model"] == "smollm2"


def test_a_forced_call(url: str) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    reply = _chat(url, "What is the weather in Oslo?", tools=[WEATHER], tool_choice=choice, max_tokens=60)
    call = reply["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather" and "Oslo" in json.loads(call["arguments"])["city"]
    assert reply["choices"][0]["finish_reason"] == "tool_calls"


def test_both_protocols_give_the_same(url: str) -> None:
    openai = _chat(url, "Count to five.")["choices"][0]["message"]["content"]
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 40}
    reply = httpx.post(f"{url}/v1/messages", json={**body, "temperature": 0}, timeout=120, trust_env=False).json()
    assert reply["content"][0]["text"] == openai


def test_a_stop_string_ends_the_answer(url: str) -> None:
    whole = _chat(url, "Count to five.")["choices"][0]["message"]["content"]
    stop = whole[10:14]
    short = _chat(url, "Count to five.", stop=[stop])["choices"][0]
    assert short["message"]["content"] == whole[: whole.index(stop)] and short["finish_reason"] == "stop"


def test_the_second_turn_computes_only_what_is_new(url: str) -> None:
    """A shared beginning of about 1,300 tokens; `python -m benchmarks.serving` measures the time that it saves."""
    long = "The quick brown fox jumps over the lazy dog. " * 130

    def reused(text: str) -> float:
        body = {"prompt": text, "max_tokens": 1, "temperature": 0}
        usage = httpx.post(f"{url}/v1/completions", json=body, timeout=120, trust_env=False).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"]

    assert reused(long + "And then") == 0
    assert reused(long + "But now") > 0.95
