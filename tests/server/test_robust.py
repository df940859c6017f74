"""What killed other servers, over real HTTP: every request gets a clean answer and the next one works."""

from __future__ import annotations

import math
from typing import Any

import pytest

CHAT = {"messages": [{"role": "user", "content": "Tell me of the fox"}], "max_tokens": 6}


def _alive(server: Any) -> None:
    reply = server.post("/v1/chat/completions", CHAT)
    assert reply.status_code == 200, reply.text[:300]
    assert reply.json()["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": ["The quick", "brown"], "max_tokens": 4}, 200),
        ({"prompt": "", "max_tokens": 4}, 400),
        ({"prompt": [""], "max_tokens": 4}, 400),
        ({"prompt": [], "max_tokens": 4}, 400),
        ({"prompt": "fox", "max_tokens": 4, "temperature": 1.0, "top_k": 10**6}, 200),
        ({"prompt": "fox", "max_tokens": 4, "temperature": 1.0, "xtc_probability": 1.0, "xtc_threshold": 0.9}, 200),
        ({"prompt": "fox", "max_tokens": 4, "logit_bias": {"100000": 5}}, 400),
        ({"prompt": "fox", "max_tokens": 4, "logit_bias": {str(2**63): 5}}, 400),
        ({"prompt": "fox", "max_tokens": 4, "temperature": 1.0, "top_p": 0}, 200),
        ({"prompt": "fox", "max_tokens": 4, "stop": 5}, 400),
        ({"prompt": "fox", "max_tokens": 4, "stop": [None]}, 400),
        ({"prompt": "fox", "max_tokens": 4, "seed": -1}, 200),
        ({"prompt": "fox", "max_tokens": 4, "seed": 2**63 - 1, "temperature": 1.0}, 200),
        ({"prompt": "fox", "max_tokens": 4, "temperature": -1}, 400),
        ({"prompt": "fox", "max_tokens": 0}, 400),
        ({"prompt": "fox", "max_tokens": -2}, 400),
        ({"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 4}, 200),
        ({"prompt": [999999], "max_tokens": 4}, 400),
        ({"prompt": "x " * 9000, "max_tokens": 4}, 400),
    ],
)
def test_one_request_never_kills(server: Any, body: dict[str, Any], status: int) -> None:
    reply = server.post("/v1/completions", body)
    assert reply.status_code == status, reply.text[:300]
    if status >= 400:
        assert reply.json()["error"]["message"]
    _alive(server)


def test_a_prompt_that_equals_a_cached_sequence(server: Any) -> None:
    """An earlier prompt and its own answer, exactly: nothing is left to compute but one token."""
    prompt = list(range(2, 2 + 300))
    first = server.post("/v1/completions", {"prompt": [t % 300 + 2 for t in prompt], "max_tokens": 212, "echo": False})
    assert first.status_code == 200
    for length in (256, 257, 300):
        body = {"prompt": [t % 300 + 2 for t in prompt][:length], "max_tokens": 3}
        assert server.post("/v1/completions", body).status_code == 200
    _alive(server)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"prompt": ' + b"1" * 5000 + b"}",
        b'{"prompt": "a", "min_p": NaN}',
        b'{"prompt": "a", "stop": "\\ud800"}',
        b'{"prompt": "a", "temperature": 1e999}',
    ],
)
def test_broken_bodies(server: Any, raw: bytes) -> None:
    with server.client() as client:
        reply = client.post("/v1/completions", content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text[:300]
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_errors_have_the_shape_of_their_protocol(server: Any) -> None:
    openai = server.post("/v1/chat/completions", {**CHAT, "model": "none such"})
    assert openai.status_code == 404
    assert openai.json()["error"]["code"] == "model_not_found"
    anthropic = server.post("/v1/messages", {**CHAT, "model": "none such"})
    assert anthropic.status_code == 404
    assert anthropic.json()["type"] == "error"
    assert anthropic.json()["error"]["type"] == "not_found_error"
    assert anthropic.headers["request-id"] == anthropic.json()["request_id"]
    assert server.get("/v1/nothing").status_code == 404
    refused = server.get("/v1/chat/completions")
    assert refused.status_code == 405 and refused.headers["allow"] == "POST"


def test_an_overlong_prompt_has_the_words_that_claude_code_knows(server: Any) -> None:
    reply = server.post("/v1/messages", {"model": "default_model", "max_tokens": 9, "messages": [
        {"role": "user", "content": "x " * 9000}]})  # fmt: skip
    assert reply.status_code == 400
    message = reply.json()["error"]["message"]
    assert message.startswith("prompt is too long: 1") and message.endswith("tokens > 4096 maximum")


def test_names_never_become_paths(server: Any, tiny_model: Any) -> None:
    folder = tiny_model("llama", seed=8)
    names = [folder, "../" + folder, "/etc/passwd", "file:///etc", "http://x/y", "-x", "a" * 300, "\x00", "smollm2", ""]
    for name in names:
        reply = server.post("/v1/chat/completions", {**CHAT, "model": name})
        assert reply.status_code in (400, 404), (name, reply.text)
        assert "/tmp" not in reply.text or name in reply.text[:300]
    _alive(server)


def test_log_probabilities_fall_and_add_up(server: Any) -> None:
    reply = server.post("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 20})
    entries = reply.json()["choices"][0]["logprobs"]["content"]
    assert len(entries) == 6
    for entry in entries:
        top = [t["logprob"] for t in entry["top_logprobs"]]
        assert len(top) == 20 and top == sorted(top, reverse=True)
        assert entry["logprob"] == pytest.approx(top[0]) and sum(map(math.exp, top)) < 1.0001


def test_echo_scores_the_prompt_as_the_model_does(server: Any) -> None:
    """Scores of a prompt's tokens are those that they have when they are written one by one."""
    ask = {"prompt": "The quick brown", "max_tokens": 1, "temperature": 0, "logprobs": 2}
    whole = server.post("/v1/completions", {**ask, "echo": True}).json()["choices"][0]
    scores = whole["logprobs"]["token_logprobs"]
    assert scores[0] is None and len(scores) == len(whole["logprobs"]["tokens"])
    continued = server.post("/v1/completions", ask).json()["choices"][0]
    assert scores[-1] == pytest.approx(continued["logprobs"]["token_logprobs"][0], abs=1e-4)
    assert whole["text"] == "The quick brown" + continued["text"]
    only = server.post("/v1/completions", {**ask, "echo": True, "max_tokens": 0}).json()["choices"][0]
    kept = only["logprobs"]["token_logprobs"]
    assert kept[0] is None and kept[1:] == pytest.approx(scores[1:-1], abs=1e-4)
