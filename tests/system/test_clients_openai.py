"""OpenAI's own client, unmodified, against a real server over a real socket.

Tiny random models show the protocol; SmolLM2 shows that the answers make sense.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import served, served_tiny

openai = pytest.importorskip("openai")

HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_tiny(tmp_path_factory.mktemp("openai")) as server:
        yield server.url + "/v1"


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as found:
        yield found


def test_chat(client: Any) -> None:
    reply = client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=5)
    assert reply.object == "chat.completion" and reply.model == "tiny"
    assert reply.choices[0].finish_reason in ("length", "stop")
    assert reply.usage.completion_tokens <= 5 and reply.usage.prompt_tokens > 0


def test_stream_says_the_same_as_the_whole(client: Any) -> None:
    options: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    text, usage = "", None
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_seed_repeats_and_n_differs(client: Any) -> None:
    options: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "temperature": 1.5, "seed": 5, "n": 3}
    texts = [[c.message.content for c in client.chat.completions.create(**options).choices] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3


def test_logprobs_whole_and_streamed(client: Any) -> None:
    options: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**options, top_logprobs=3).choices[0].logprobs.content
    assert 1 <= len(whole) <= 4
    for token in whole:
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True) and math.isclose(token.logprob, tops[0])
    streamed = [
        token
        for chunk in client.chat.completions.create(**options, top_logprobs=3, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [t.token for t in streamed] == [t.token for t in whole]


def test_completions(client: Any) -> None:
    reply = client.completions.create(model="tiny", prompt=["The quick", "A model"], max_tokens=3, n=2, temperature=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(model="tiny", prompt=["The quick", [65, 66]], max_tokens=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert set(texts) == {0, 1}


def test_echo_scores_the_prompt(client: Any) -> None:
    ids = [70, 80, 90, 100]
    reply = client.completions.create(
        model="tiny", prompt=[ids], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1
    )
    found = reply.choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(ids) + 1
    assert found.token_logprobs[0] is None and all(p <= 0 for p in found.token_logprobs[1:])
    assert math.isclose(found.token_logprobs[-1], max(found.top_logprobs[-1].values()), abs_tol=1e-6)
    alone = client.completions.create(model="tiny", prompt=[ids], max_tokens=0, logprobs=1, echo=True)
    assert len(alone.choices[0].logprobs.tokens) == len(ids) and alone.usage.completion_tokens == 0


def test_responses(client: Any) -> None:
    reply = client.responses.create(model="tiny", input="Hello", max_output_tokens=6, temperature=0)
    assert reply.status in ("completed", "incomplete") and reply.usage.output_tokens <= 6
    with client.responses.stream(model="tiny", input="Hello", max_output_tokens=6, temperature=0) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert deltas == reply.output_text


def test_models(client: Any) -> None:
    assert "tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tiny").id == "tiny"


def test_errors_have_openais_classes(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "word " * 9000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="tiny", input="a")


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a", "b"]},
        {"prompt": ""},
        {"prompt": [""]},
        {"prompt": "a", "temperature": 1, "top_k": 10**6},
        {"prompt": "a", "temperature": 1, "xtc_probability": 1, "xtc_threshold": 0.9},
        {"prompt": "a", "logit_bias": {"100000": 5}},
        {"prompt": "a", "temperature": 1, "top_p": 0},
        {"prompt": "a", "seed": -1},
    ],
)
def test_requests_that_killed_other_servers(client: Any, body: dict[str, Any]) -> None:
    import httpx

    with httpx.Client(base_url=str(client.base_url), trust_env=False, timeout=60) as http:
        reply = http.post("completions", json={"model": "tiny", "max_tokens": 3, **body})
        assert reply.status_code in (200, 400), reply.text
        whole = http.post("completions", json={"model": "tiny", "prompt": "a", "max_tokens": 3, "temperature": 0})
        text = whole.json()["choices"][0]["text"]
        again = http.post(
            "completions", json={"model": "tiny", "prompt": "a" + text, "max_tokens": 3, "temperature": 0}
        )
        assert again.status_code == 200


@pytest.mark.real_model
def test_answers_make_sense(tmp_path: Path) -> None:
    with (
        served("--model", "smollm2", folder=tmp_path) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        question: Any = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
        reply = client.chat.completions.create(model="smollm2", messages=question, max_tokens=24, temperature=0)
        assert "Paris" in reply.choices[0].message.content and reply.choices[0].finish_reason == "stop"
        again = client.chat.completions.create(model="smollm2", messages=question, max_tokens=24, temperature=0)
        assert again.choices[0].message.content == reply.choices[0].message.content
        answer = client.responses.create(
            model="smollm2", input="What is the capital of France?", max_output_tokens=24, temperature=0
        )
        assert "Paris" in answer.output_text
