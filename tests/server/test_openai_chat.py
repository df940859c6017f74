"""Chat completions against a service without a model: what is asked of it, and what is made of its events."""

import asyncio
import json
from typing import Any

import pytest
from fakes import FakeService, answer
from openai_client import post, sse

from mlx_lm.errors import ContextLengthError, ModelNotFoundError, OverloadedError
from mlx_lm.server.work import (
    Finished,
    OutputFormat,
    Progress,
    Reasoning,
    Started,
    Text,
    Thinking,
    TokenLogprob,
    Tool,
    ToolArguments,
    ToolChoice,
    ToolEnd,
    ToolStart,
    TopLogprob,
    Usage,
)

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "Hi"}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": WEATHER}}
CALL = [
    Started(9, 4),
    Reasoning("Let me "),
    Reasoning("look."),
    Text("One moment."),
    ToolStart(0, "call_1", "weather"),
    ToolArguments(0, '{"city"'),
    ToolArguments(0, ': "Oslo"}'),
    ToolEnd(0),
    Finished("tool_calls", Usage(9, 4, 12, 3)),
]
SCORED = TokenLogprob(
    7, "Hé", "Hé".encode(), -0.5, (TopLogprob(7, "Hé", b"H\xc3\xa9", -0.5), TopLogprob(8, "Ho", b"Ho", -float("inf")))
)


def chat(service: FakeService, **fields: Any) -> Any:
    return post(service, PATH, {"messages": [USER], **fields})


def refusal(**fields: Any) -> dict[str, Any]:
    reply = chat(FakeService(), **fields)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    return error


def test_whole_answer() -> None:
    service = FakeService(answer("Hello there!"))
    body = chat(service, model="tiny").json()
    assert body.pop("id").startswith("chatcmpl-") and body.pop("created") > 1.7e9
    assert body.pop("system_fingerprint").startswith("mlx-lm-")
    assert body == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    (work,) = service.works
    assert work.messages == ({"role": "user", "content": "Hi"},) and work.max_tokens is None
    assert service.jobs[0].cancelled


def test_stream() -> None:
    service = FakeService([Progress(1, 5), *answer("Hello there!")])
    reply = chat(service, stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.startswith(": keepalive 1/5\n\n") and reply.text.endswith("data: [DONE]\n\n")
    chunks = sse(reply)
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hello "},
        {"content": "there!"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, None, None, "stop"]
    assert all(c["usage"] is None and c["object"] == "chat.completion.chunk" for c in chunks[:-1])
    assert len({c["id"] for c in chunks}) == 1
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 7
    assert "usage" not in sse(chat(service, stream=True, stream_options={}))[0]


def test_tool_call_whole_and_streamed() -> None:
    choice = chat(FakeService(CALL), tools=[TOOL]).json()["choices"][0]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [call] and choice["message"]["content"] == "One moment."
    assert choice["message"]["reasoning_content"] == choice["message"]["reasoning"] == "Let me look."
    deltas = [c["choices"][0]["delta"] for c in sse(chat(FakeService(CALL), tools=[TOOL], stream=True))]
    assert deltas[1:3] == [{"reasoning_content": t, "reasoning": t} for t in ("Let me ", "look.")]
    assert deltas[4] == {"tool_calls": [{**call, "index": 0, "function": {"name": "weather", "arguments": ""}}]}
    assert deltas[5:7] == [
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ('{"city"', ': "Oslo"}')
    ]


def test_content_is_null_beside_calls_alone() -> None:
    script = [e for e in CALL if not isinstance(e, Text | Reasoning)]
    message = chat(FakeService(script)).json()["choices"][0]["message"]
    assert message["content"] is None and "reasoning" not in message


def test_several_answers() -> None:
    service = FakeService(answer("one"), answer("two"), answer("three"))
    body = chat(service, n=3, seed=-1).json()
    assert [c["message"]["content"] for c in body["choices"]] == ["one", "two", "three"]
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == 5 and body["usage"]["completion_tokens"] == 3
    assert [w.sampling.seed for w in service.works] == [2**63 - 1, 0, 1]
    chunks = sse(
        chat(FakeService(answer("one"), answer("two")), n=2, stream=True, stream_options={"include_usage": True})
    )
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
    assert texts == {0: "one", 1: "two"} and chunks[-1]["usage"]["prompt_tokens"] == 5


def test_more_answers_than_the_queue_holds_take_turns() -> None:
    class Small(FakeService):
        async def open(self, work: Any) -> Any:
            if sum(not job.cancelled for job in self.jobs) >= 2:
                raise OverloadedError(2, 1.0)
            return await super().open(work)

    service = Small(*(answer(str(i)) for i in range(9)))
    body = chat(service, n=9).json()
    assert [c["message"]["content"] for c in body["choices"]] == [str(i) for i in range(9)]


def test_logprobs() -> None:
    script = [Started(1, 0), Text("Hé", (SCORED,)), Finished("stop", Usage(1, 0, 1))]
    expected = {
        "id": 7,
        "token": "Hé",
        "logprob": -0.5,
        "bytes": [72, 195, 169],
        "top_logprobs": [
            {"id": 7, "token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]},
            {"id": 8, "token": "Ho", "logprob": -9999.0, "bytes": [72, 111]},
        ],
    }
    service = FakeService(script)
    whole = chat(service, logprobs=True, top_logprobs=2).json()["choices"][0]
    assert whole["logprobs"] == {"content": [expected], "refusal": None}
    assert service.works[0].top_logprobs == 2
    streamed = sse(chat(FakeService(script), logprobs=True, top_logprobs=2, stream=True))
    assert streamed[1]["choices"][0]["logprobs"] == {"content": [expected], "refusal": None}
    assert chat(FakeService(script)).json()["choices"][0]["logprobs"] is None
    assert refusal(top_logprobs=2)["message"].endswith("top_logprobs needs logprobs to be true")


def test_fields_reach_the_work() -> None:
    service = FakeService()
    reply = chat(
        service,
        model="m",
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        typical_p=0.8,
        xtc_probability=1,
        xtc_threshold=0.2,
        repetition_penalty=0,
        repetition_context_size=10,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"5": -100},
        seed=2**64 - 1,
        stop="END",
        max_completion_tokens=8,
        max_tokens=8,
        min_tokens=2,
        ignore_eos=True,
        adapters="poet",
        reasoning_effort="high",
        thinking_budget=64,
        chat_template_kwargs={"enable_thinking": True},
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER, "strict": True}},
        user="u",
        metadata=None,
        store=False,
        service_tier="auto",
    )
    assert reply.status_code == 200, reply.text
    assert "x-ignored-fields" not in reply.headers
    (work,) = service.works
    assert work.model == "m" and work.max_tokens == 8 and work.stop == ("END",) and work.adapter == "poet"
    assert work.min_tokens == 2 and work.ignore_eos and work.template_kwargs == {"enable_thinking": True}
    sampling = work.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 0, 0.1)
    assert (sampling.repetition_penalty, sampling.repetition_context_size) == (1.0, 10)
    assert sampling.logit_bias == {5: -100} and sampling.seed == 2**63 - 1
    assert work.thinking == Thinking(True, 64, "high")
    assert work.tools == (Tool("weather", "Now", WEATHER, False),)
    assert work.tool_choice == ToolChoice("named", "weather", parallel=False)
    assert work.output == OutputFormat("json_schema", WEATHER, True)


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"response_format": {"type": "text"}}, OutputFormat()),
        ({"response_format": {"type": "json_object"}}, OutputFormat("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": WEATHER}}},
            OutputFormat("json_schema", WEATHER, False),
        ),
        ({"guided_json": WEATHER}, OutputFormat("json_schema", WEATHER)),
        ({"guided_json": json.dumps(WEATHER)}, OutputFormat("json_schema", WEATHER)),
        ({"guided_regex": "[a-z]+"}, OutputFormat("regex", "[a-z]+")),
        ({"guided_choice": ["a", "b"]}, OutputFormat("choice", ("a", "b"))),
        ({"guided_grammar": "start: /x/"}, OutputFormat("grammar", "start: /x/")),
        ({"structured_outputs": {"json": WEATHER}}, OutputFormat("json_schema", WEATHER)),
        ({"structured_outputs": {"choice": ["a"]}}, OutputFormat("choice", ("a",))),
        ({"structured_outputs": {"json_object": True}}, OutputFormat("json_object")),
    ],
)
def test_formats(fields: dict[str, Any], output: OutputFormat) -> None:
    service = FakeService()
    assert chat(service, **fields).status_code == 200
    assert service.works[0].output == output


def test_messages() -> None:
    service = FakeService()
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]
    reply = chat(service, messages=messages, continue_final_message=True)
    assert reply.status_code == 200, reply.text
    assert service.works[0].prefill
    assert service.works[0].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?", "name": "ann"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}},
                {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "sun", "tool_call_id": "c1", "name": "weather"},
        {"role": "assistant", "content": "No."},
    )


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]", "image_url"),
        ({"messages": []}, "messages", ""),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content", ""),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.role", ""),
        ({"messages": [{**USER, "function_call": {}}]}, "messages[0].function_call", "use tool_calls"),
        ({"n": 0}, "n", ""),
        ({"n": 10**6}, "n", ""),
        ({"temperature": -1}, "temperature", ""),
        ({"temperature": "hot"}, "temperature", ""),
        ({"top_p": 2}, "top_p", ""),
        ({"stop": 5}, "stop", ""),
        ({"stop": [None]}, "stop", ""),
        ({"stop": ""}, "stop", "empty"),
        ({"stop": ["x"] * 17}, "stop", "16"),
        ({"seed": 2**64}, "seed", ""),
        ({"logit_bias": {"x": 1}}, "logit_bias", "not a token id"),
        ({"logit_bias": {str(2**63): 1}}, "logit_bias", "not a token id"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "not a tool"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "allowed_tools"),
        ({"tools": [TOOL, TOOL]}, "tools[1]", "taken"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", ""),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs a schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type", ""),
        ({"response_format": {"type": "json_object"}, "guided_regex": "x"}, "response_format", "both"),
        ({"guided_regex": "x", "guided_choice": ["x"]}, "guided_choice", "both"),
        ({"guided_json": "[1]"}, "guided_json", "JSON schema"),
        ({"guided_choice": []}, "guided_choice", "empty"),
        ({"draft_model": "/etc"}, "draft_model", "operator"),
        ({"best_of": 2}, "best_of", ""),
        ({"store": True}, "store", "nothing is stored"),
        ({"functions": [{}]}, "functions", "use `tools`"),
        ({"modalities": ["text", "audio"]}, "modalities", "text"),
        ({"chat_template": "{{ x }}"}, "chat_template", "operator"),
        ({"continue_final_message": True}, None, "assistant"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], param: str | None, words: str) -> None:
    error = refusal(**fields)
    assert error["param"] == param or str(error["param"]).startswith(str(param)), error
    assert words in error["message"], error


def test_null_and_neutral_values_pass() -> None:
    nothing = dict.fromkeys(
        ["temperature", "top_p", "max_tokens", "stop", "seed", "n", "stream", "logprobs", "tools", "functions", "store"]
    )
    reply = chat(FakeService(), **nothing, best_of=1, modalities=["text"], length_penalty=1)
    assert reply.status_code == 200, reply.text


def test_unknown_fields_are_named_or_refused() -> None:
    reply = chat(FakeService(), brand_new=1, **{"b\nad, one": 2})
    assert reply.status_code == 200 and reply.headers["x-ignored-fields"] == "brand_new, bad one"
    assert chat(FakeService(), **{" ": 1, "é": 2, " a ": 3}).headers["x-ignored-fields"] == "?, ?, a"
    strict = post(FakeService(), PATH, {"messages": [USER], "brand_new": 1}, strict_fields=True)
    assert strict.status_code == 400 and strict.json()["error"]["param"] == "brand_new"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelNotFoundError("No model is named 'x'."), 404, "model_not_found"),
        (ContextLengthError(10, 5), 400, "context_length_exceeded"),
        (OverloadedError(3, 2.0), 503, "overloaded"),
        (RuntimeError("secret /path"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_answer_have_a_status(error: Exception, status: int, code: str, stream: bool) -> None:
    reply = chat(FakeService(error), stream=stream)
    assert reply.status_code == status and reply.json()["error"]["code"] == code
    assert "secret" not in reply.text
    assert reply.headers.get("retry-after") == ("2" if status == 503 else None)


def test_error_in_the_middle() -> None:
    script = [Started(1, 0), Text("Hel"), RuntimeError("secret")]
    assert chat(FakeService(script)).status_code == 500
    reply = chat(FakeService(script), stream=True)
    events = sse(reply, done=False)
    assert events[1]["choices"][0]["delta"] == {"content": "Hel"}
    assert events[-1]["error"]["code"] == "internal_error" and "secret" not in reply.text
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_leaving_cancels_the_jobs(streamed: bool, n: int) -> None:
    from openai_client import leave_after

    service = FakeService(answer("a " * 1000), delay=0.01)
    asyncio.run(leave_after(0.1, service, PATH, {"messages": [USER], "stream": streamed, "n": n}))
    assert len(service.jobs) == n and all(job.cancelled for job in service.jobs)
