"""Bodies of Anthropic's endpoints as work: every field honoured, refused by name, or ignored on purpose."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from test_openai_fields import paths_of

from mlx_lm.errors import MLXLMError, RequestError, UnsupportedError
from mlx_lm.server.anthropic.request import Reply, reply_of, to_work
from mlx_lm.server.anthropic.schema import COUNT, MESSAGES
from mlx_lm.server.docs import ANTHROPIC_TABLES
from mlx_lm.server.errors import HTTPError
from mlx_lm.server.fields import FieldTable
from mlx_lm.server.work import OutputFormat, SamplingSpec, Thinking, Tool, ToolChoice, Work

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
BASH: dict[str, Any] = {"name": "Bash", "description": "Runs.", "input_schema": SCHEMA}
READ: dict[str, Any] = {"name": "Read", "input_schema": {"type": "object"}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}], **fields}


def work(**fields: Any) -> Work:
    return to_work(MESSAGES.read(body(**fields))[0])


def reply(betas: str = "", **fields: Any) -> Reply:
    return reply_of(MESSAGES.read(body(**fields))[0], betas)


def test_the_least_that_can_be_said() -> None:
    assert work() == Work(
        model="m",
        messages=({"role": "user", "content": "hi"},),
        max_tokens=10,
        thinking=Thinking(enabled=False),
        clamp=True,
    )
    assert reply() == Reply("m")


def test_sampling_and_ends() -> None:
    got = work(temperature=1, top_p=0.5, top_k=40, stop_sequences=["\n\n", "END"], max_tokens=10**30)
    assert got.sampling == SamplingSpec(temperature=1, top_p=0.5, top_k=40)
    assert got.stop == ("\n\n", "END")
    assert got.max_tokens == 2**31 - 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"thinking": {"type": "disabled"}}, Thinking(enabled=False)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Thinking(enabled=True)),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Thinking(enabled=True, budget=2048)),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            Thinking(enabled=True, effort="high"),
        ),
    ],
)
def test_thinking(fields: dict[str, Any], expected: Thinking) -> None:
    assert work(**fields).thinking == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "Bash"}, ToolChoice("named", "Bash")),
        ({"type": "none"}, ToolChoice("none")),
        (None, ToolChoice()),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    got = work(tools=[BASH, {**READ, "strict": True, "type": "custom"}], tool_choice=choice)
    assert got.tool_choice == expected
    assert got.tools == (Tool("Bash", "Runs.", SCHEMA), Tool("Read", None, {"type": "object"}, strict=True))


def test_deferred_tools_wait_until_they_are_loaded() -> None:
    later = {**READ, "defer_loading": True}
    assert [tool.name for tool in work(tools=[BASH, later]).tools] == ["Bash"]
    call = {"type": "tool_use", "id": "1", "name": "Bash", "input": {}}
    found = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "tool_reference", "tool_name": "Read"}]}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [found]},
    ]
    got = work(tools=[later, BASH], messages=messages, tool_choice={"type": "tool", "name": "Read"})
    assert [(tool.name, tool.in_prompt) for tool in got.tools] == [("Bash", True), ("Read", False)]


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_output_format(name: str) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    got = work(**{name: {"format": form} if name == "output_config" else form})
    assert got.output == OutputFormat("json_schema", SCHEMA, strict=True)


def test_the_form_of_the_reply() -> None:
    eager = {**BASH, "eager_input_streaming": True}
    assert reply(stream=True, tools=[eager, READ]) == Reply("m", True, False, frozenset({"Bash"}))
    assert reply("x,fine-grained-tool-streaming-2025-05-14").eager == {"*"}
    assert reply(thinking={"type": "adaptive", "display": "omitted"}).omit_thinking


def test_what_claude_code_sends_besides_changes_nothing() -> None:
    more = {
        "metadata": {"user_id": "{}"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "safeguards": [{"type": "x"}],
        "cache_control": {"type": "ephemeral"},
        "betas": ["x"],
        "speed": None,
        "zebra": 1,
    }
    read, unknown = MESSAGES.read(body(**more))
    assert to_work(read) == work()
    assert unknown == ("zebra",)


def test_counting_takes_the_same_body() -> None:
    got, _ = COUNT.read(body(stream=True, temperature=1, tools=[BASH]))
    counted = to_work(got)
    assert counted.messages == work().messages and counted.tools == work(tools=[BASH]).tools
    assert counted.max_tokens is None
    del (short := body())["max_tokens"]
    assert to_work(COUNT.read(short)[0]).messages == work().messages


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"container": "c1"}, HTTPError, "container is not supported"),
        ({"mcp_servers": [{"url": "http://x"}]}, HTTPError, "mcp_servers is not supported"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, HTTPError, "tools\\[0\\].type"),
        ({"tools": [{"name": "f"}]}, RequestError, "tools.0.input_schema"),
        ({"tools": [BASH, BASH]}, RequestError, "tools.1.name"),
        ({"tools": [{**BASH, "name": ""}]}, RequestError, "tools.0.name"),
        ({"tools": [{**BASH, "name": 5}]}, RequestError, "tools.0.name"),
        ({"tools": [{**BASH, "description": 5}]}, RequestError, "tools.0.description"),
        ({"tools": [{**BASH, "allowed_callers": ["code"]}]}, UnsupportedError, "allowed_callers"),
        ({"tool_choice": {"type": "any"}}, RequestError, "no tools"),
        ({"tools": [BASH], "tool_choice": {"type": "tool", "name": "Nix"}}, RequestError, "'Nix'"),
        ({"tools": [BASH], "tool_choice": {"type": "tool"}}, RequestError, "tool_choice.name"),
        ({"tool_choice": {"type": "zebra"}}, HTTPError, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, RequestError, "budget_tokens"),
        ({"thinking": {"type": "between_tools"}}, HTTPError, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, HTTPError, "budget_tokens"),
        ({"max_tokens": 0}, HTTPError, "max_tokens"),
        ({"max_tokens": "10"}, HTTPError, "max_tokens"),
        ({"max_tokens": None}, HTTPError, "max_tokens"),
        ({"max_tokens": True}, HTTPError, "max_tokens"),
        ({"messages": []}, HTTPError, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, HTTPError, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, HTTPError, "messages.0.content"),
        ({"messages": 5}, HTTPError, "messages"),
        ({"temperature": 3}, HTTPError, "temperature"),
        ({"temperature": -0.1}, HTTPError, "temperature"),
        ({"top_p": 1.5}, HTTPError, "top_p"),
        ({"top_k": -1}, HTTPError, "top_k"),
        ({"top_k": 1.5}, HTTPError, "top_k"),
        ({"stop_sequences": [""]}, HTTPError, "stop_sequences"),
        ({"stop_sequences": "x"}, HTTPError, "stop_sequences"),
        ({"stop_sequences": [None]}, HTTPError, "stop_sequences"),
        ({"stream": "yes"}, HTTPError, "stream"),
        ({"system": 5}, HTTPError, "system"),
        ({"output_config": {"format": {"type": "regex"}}}, HTTPError, "output_config.format"),
        ({"output_config": {"effort": "huge"}}, HTTPError, "effort"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], error: type[MLXLMError], words: str) -> None:
    with pytest.raises(error, match=words):
        work(**fields)


@pytest.mark.parametrize("table", ANTHROPIC_TABLES, ids=lambda table: table.path)
def test_every_field_has_its_rule(table: FieldTable[Any]) -> None:
    honoured = {path for path, rule in table.rules.items() if rule.fate == "honoured"}
    fields = paths_of(table.model)
    # Tools are read block by block: their fields have rules, and tests above, but no model.
    tools = {path for path in honoured if path.startswith("tools[].")}
    assert fields - {"tools"} == honoured - tools and len(tools) == 7


def test_the_document_in_the_repository_is_fresh() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "api_anthropic.py"))
    written = script["PATH"].read_text()
    assert written == script["fresh"](written), "run scripts/api_anthropic.py"


def test_every_field_of_the_official_client_is_in_the_table() -> None:
    types = pytest.importorskip("anthropic.types")
    tool = {path.removeprefix("tools[].") for path in MESSAGES.rules if path.startswith("tools[].")}
    assert set(types.ToolParam.__annotations__) <= tool
    beta = pytest.importorskip("anthropic.types.beta")
    for table, params in (
        (MESSAGES, types.message_create_params.MessageCreateParamsBase),
        (MESSAGES, beta.message_create_params.MessageCreateParamsBase),
        (COUNT, types.MessageCountTokensParams),
        (COUNT, beta.MessageCountTokensParams),
    ):
        listed = {path.split(".")[0].removesuffix("[]") for path in table.rules}
        assert set(params.__annotations__) - {"stream"} <= listed
