"""Completions against a service without a model: kinds of prompts, echo and log-probabilities, streams of several."""

from typing import Any

import pytest
from fakes import FakeService, answer
from openai_client import post, sse

from mlx_lm.server.work import Finished, OutputFormat, Started, Text, TokenLogprob, TopLogprob, Usage

PATH = "/v1/completions"


def complete(service: FakeService, **fields: Any) -> Any:
    return post(service, PATH, fields)


def test_whole_answer() -> None:
    service = FakeService(answer("and so on", reason="length"))
    body = complete(service, prompt="Once", max_tokens=3).json()
    assert body.pop("id").startswith("cmpl-") and body.pop("created") and body.pop("system_fingerprint")
    assert body == {
        "object": "text_completion",
        "model": "tiny",
        "choices": [{"index": 0, "text": "and so on", "logprobs": None, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    (work,) = service.works
    assert work.prompt == "Once" and work.messages is None and work.max_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "works"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        (["a", [3]], ["a", (3,)]),
        ("", [""]),
    ],
)
def test_kinds_of_prompts(prompt: Any, works: list[Any]) -> None:
    service = FakeService()
    body = complete(service, prompt=prompt).json()
    assert [work.prompt for work in service.works] == works and len(body["choices"]) == len(works)


def test_prompts_times_answers() -> None:
    service = FakeService(*(answer(t) for t in "abcd"))
    body = complete(service, prompt=["x", "y"], n=2, seed=1).json()
    assert [c["text"] for c in body["choices"]] == ["a", "b", "c", "d"]
    assert [(w.prompt, w.sampling.seed) for w in service.works] == [("x", 1), ("x", 2), ("y", 1), ("y", 2)]
    assert body["usage"]["prompt_tokens"] == 10 and body["usage"]["completion_tokens"] == 4


def test_stream_of_several() -> None:
    service = FakeService(answer("a b"), answer("c d"))
    chunks = sse(complete(service, prompt=["x", "y"], stream=True, stream_options={"include_usage": True}))
    texts, ends = {0: "", 1: ""}, {}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "a b", 1: "c d"} and ends == {0: "stop", 1: "stop"}
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["prompt_tokens"] == 10


def scored(token: int, text: str, logprob: float | None, offset: int, *top: tuple[str, float]) -> TokenLogprob:
    tops = tuple(TopLogprob(i, t, t.encode(), p) for i, (t, p) in enumerate(top))
    return TokenLogprob(token, text, text.encode(), logprob, tops, offset)


def test_echo_with_logprobs_as_lm_eval_asks() -> None:
    tokens = (
        scored(1, "A", None, 0),
        scored(2, " b", -2.0, 1, (" c", -0.5)),
        scored(3, " d", -0.25, 3, (" d", -0.25)),
    )
    script = [Started(2, 0), Text("A b", tokens[:2]), Text(" d", tokens[2:]), Finished("length", Usage(2, 0, 1))]
    expected = {
        "tokens": ["A", " b", " d"],
        "token_logprobs": [None, -2.0, -0.25],
        "top_logprobs": [None, {" c": -0.5, " b": -2.0}, {" d": -0.25}],
        "text_offset": [0, 1, 3],
    }
    service = FakeService(script)
    body = complete(service, prompt=[[1, 2]], echo=True, logprobs=1, max_tokens=1, seed=1234, temperature=0).json()
    assert body["choices"][0]["text"] == "A b d" and body["choices"][0]["logprobs"] == expected
    (work,) = service.works
    assert work.prompt == (1, 2) and work.echo and work.top_logprobs == 1 and work.max_tokens == 1
    chunks = sse(complete(FakeService(script), prompt="A b", echo=True, logprobs=1, max_tokens=1, stream=True))
    joined = {key: [x for c in chunks[:2] for x in c["choices"][0]["logprobs"][key]] for key in expected}
    assert joined == expected and chunks[2]["choices"][0]["logprobs"] is None


def test_prompt_alone_is_scored() -> None:
    service = FakeService([Started(1, 0), Text("A", (scored(1, "A", None, 0),)), Finished("length", Usage(1, 0, 0))])
    body = complete(service, prompt="A", echo=True, logprobs=0, max_tokens=0).json()
    assert service.works[0].max_tokens == 0 and service.works[0].top_logprobs == 0
    assert body["choices"][0]["logprobs"]["token_logprobs"] == [None]


def test_tokens_that_print_alike_keep_the_likeliest() -> None:
    token = scored(1, "�", -3.0, 0, ("�", -0.5), ("�", -3.0))
    service = FakeService([Started(1, 0), Text("�", (token,)), Finished("stop", Usage(1, 0, 1))])
    found = complete(service, prompt="A", logprobs=2).json()["choices"][0]["logprobs"]
    assert found["top_logprobs"] == [{"�": -0.5}] and found["token_logprobs"] == [-3.0]


def test_old_form_of_logprobs() -> None:
    service = FakeService()
    complete(service, prompt="A", logprobs=True)
    complete(service, prompt="A", logprobs=False)
    assert [w.top_logprobs for w in service.works] == [0, None]


def test_constraint_and_adapter() -> None:
    service = FakeService()
    complete(service, prompt="A", guided_choice=["x"], adapters="poet")
    assert service.works[0].output == OutputFormat("choice", ("x",)) and service.works[0].adapter == "poet"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**63]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 128}, "n"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str) -> None:
    reply = complete(FakeService(), **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith(param)


def test_error_in_the_middle_of_a_stream_of_several() -> None:
    service = FakeService(answer("a"), [Started(1, 0), RuntimeError("secret")])
    events = sse(complete(service, prompt=["x", "y"], stream=True), done=False)
    assert events[-1]["error"]["code"] == "internal_error"
    assert all(job.cancelled for job in service.jobs)
