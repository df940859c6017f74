"""Anthropic's messages as templates read them: equal meaning gives equal text, whatever its form."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lm.errors import RequestError, UnsupportedError
from mlx_lm.server.anthropic import signature
from mlx_lm.server.anthropic.content import Conversation, read_messages
from mlx_lm.server.anthropic.schema import MessageBody

BILLING = "x-anthropic-billing-header: cc_version=2.1.329.0a8; cc_entrypoint=cli;"
TOOL = {"name": "Cron", "description": "Later.", "input_schema": {"type": "object", "properties": {}}}


def read(*messages: tuple[str, Any], system: Any = None, tools: Any = ()) -> Conversation:
    return read_messages([MessageBody(role=role, content=content) for role, content in messages], system, tools)  # type: ignore[arg-type]


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def use(call_id: str = "t1", name: str = "Bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(content: Any, call_id: str = "t1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.lists(words, min_size=1, max_size=5), words, st.data())
def test_string_and_block_forms_and_cache_marks_are_one(parts: list[str], system: str, data: Any) -> None:
    def form(value: str) -> Any:
        marks = data.draw(st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}]))
        return value if data.draw(st.booleans()) else [text(value, **marks)]

    def conversation() -> Conversation:
        turns: list[tuple[str, Any]] = []
        for index, part in enumerate(parts):
            call = use(f"t{index}", command=part)
            mark = data.draw(st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}]))
            turns += [("user", form(part)), ("system", form(part))]
            turns += [("assistant", [text(part), {**call, **mark}])]
            turns += [("user", [{**result(form(part), f"t{index}"), **mark}])]
        return read(*turns, system=form(system))

    assert conversation() == conversation()


def test_the_billing_header_goes_and_the_rest_stays() -> None:
    plain = read(("user", "hi"), system="You help.")
    for system in (
        [text(BILLING), text("You help.", cache_control={"type": "ephemeral"})],
        [text(BILLING + "\n"), text("You help.")],
        [text(BILLING + "\nYou help.")],
        f"{BILLING}\nYou help.",
    ):
        assert read(("user", "hi"), system=system) == plain
    assert read(("user", "hi"), system=[text(BILLING)]).messages[0]["role"] == "user"
    # Only a header is one: whoever speaks about it keeps the words.
    assert "billing" in read(("user", "hi"), system=f"Explain {BILLING}").messages[0]["content"]


def test_the_countdown_of_tokens_goes() -> None:
    plain = read(("user", "hi"), ("assistant", "x"), ("user", "y"), system="You help.")
    for left in ("987", "Infinite"):
        line = f"<total_tokens>{left} tokens left</total_tokens>"
        assert read(("user", "hi"), ("system", line), ("assistant", "x"), ("user", "y"), system="You help.") == plain
        assert read(("user", "hi"), ("assistant", "x"), ("user", "y"), system=[text("You help."), text(line)]) == plain
        assert (
            read(("user", "hi"), ("assistant", "x"), ("user", "y"), ("system", [text(line)]), system="You help.")
            == plain
        )
        assert line in read(("user", line)).messages[0]["content"]  # a person's words stay


def test_blocks_are_paragraphs() -> None:
    content = [text("<a>\n"), text("b"), text("c"), text("")]
    assert read(("user", content)).messages == ({"role": "user", "content": "<a>\nb\nc"},)


def test_a_tool_round() -> None:
    got = read(
        ("user", "go"),
        ("assistant", [text("I "), text("look."), use(command="ls", b=1)]),
        ("user", [result([text("a"), text("b")]), text("and now?")]),
    ).messages
    call = {"id": "t1", "type": "function", "function": {"name": "Bash", "arguments": {"command": "ls", "b": 1}}}
    assert got == (
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "name": "Bash", "content": "a\nb"},
        {"role": "user", "content": "and now?"},
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("boom", "Error: boom"),
        ("Error: boom", "Error: boom"),
        ("<tool_use_error>x", "<tool_use_error>x"),
        ("", "Error"),
    ],
)
def test_a_failed_tool_says_so(content: str, expected: str) -> None:
    got = read(("user", "go"), ("assistant", [use()]), ("user", [result(content, is_error=True)])).messages
    assert got[-1]["content"] == expected


def test_results_without_content_are_empty() -> None:
    block = {"type": "tool_result", "tool_use_id": "t1"}
    assert read(("user", "go"), ("assistant", [use()]), ("user", [block])).messages[-1]["content"] == ""


class TestSystemMessages:
    def test_leading_ones_are_the_system_prompt(self) -> None:
        got = read(("system", "B"), ("user", "hi"), system="A").messages
        assert got[0] == {"role": "system", "content": "A\nB"}
        assert read(("system", "B"), ("user", "hi")).messages[0] == {"role": "system", "content": "B"}

    def test_after_a_user_message_they_join_it(self) -> None:
        got = read(("user", "hi"), ("system", "env"), system="A").messages
        assert got[1:] == ({"role": "user", "content": "hi\n<system-reminder>\nenv\n</system-reminder>"},)

    def test_after_a_tool_result_they_join_it(self) -> None:
        got = read(("user", "go"), ("assistant", [use()]), ("user", [result("out")]), ("system", "s")).messages
        assert got[-1]["role"] == "tool"
        assert got[-1]["content"] == "out\n<system-reminder>\ns\n</system-reminder>"

    def test_after_an_answer_they_begin_the_next_user_message(self) -> None:
        got = read(("user", "a"), ("assistant", "b"), ("system", "s"), ("user", "c")).messages
        assert [m["role"] for m in got] == ["user", "assistant", "user"]
        assert got[-1]["content"] == "<system-reminder>\ns\n</system-reminder>\nc"

    def test_reminders_are_not_wrapped_twice(self) -> None:
        reminder = "<system-reminder>\nx\n</system-reminder>"
        assert read(("user", "a"), ("system", reminder)).messages[0]["content"] == f"a\n{reminder}"


class TestThinking:
    def test_history_keeps_what_was_shown(self) -> None:
        block = {"type": "thinking", "thinking": "hmm", "signature": signature.sign("hmm", omitted=False)}
        got = read(("user", "a"), ("assistant", [block, text("b")]), ("user", "c")).messages
        assert got[1] == {"role": "assistant", "content": "b", "reasoning_content": "hmm"}

    def test_and_what_was_not_shown(self) -> None:
        block = {"type": "thinking", "thinking": "", "signature": signature.sign("h\u00e4", omitted=True)}
        got = read(("user", "a"), ("assistant", [block, text("b")]), ("user", "c")).messages
        assert got[1]["reasoning_content"] == "h\u00e4"

    @pytest.mark.parametrize("value", ["", "EuYBCkQ", "mlxt1.!!", "mlxt1./w==", None, 5])
    def test_foreign_and_damaged_signatures_carry_nothing(self, value: Any) -> None:
        assert signature.read(value) == ""
        blocks = [{"type": "thinking", "thinking": "", "signature": value}, {"type": "redacted_thinking", "data": "x"}]
        got = read(("user", "a"), ("assistant", [*blocks, text("b")]), ("user", "c")).messages
        assert got[1] == {"role": "assistant", "content": "b"}


class TestTurns:
    def test_neighbours_of_one_role_are_one_message(self) -> None:
        got = read(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", [use()]), ("user", [result("r")]))
        assert [m["role"] for m in got.messages] == ["user", "assistant", "tool"]
        assert got.messages[0]["content"] == "a\nb"
        assert got.messages[1]["content"] == "c" and len(got.messages[1]["tool_calls"]) == 1

    def test_a_last_answer_is_continued(self) -> None:
        assert read(("user", "a"), ("assistant", "The ans")).prefill
        assert not read(("user", "a"), ("assistant", "")).prefill
        assert not read(("user", "a"), ("assistant", "x"), ("system", "s")).prefill

    def test_empty_conversations_are_refused(self) -> None:
        for messages in ([("user", "")], [("system", "x")], [("assistant", [])], [("user", [])]):
            with pytest.raises(RequestError, match="at least one message"):
                read(*messages)


class TestLateTools:
    def test_a_reference_becomes_the_definition(self) -> None:
        reference = {"type": "tool_reference", "tool_name": "Cron"}
        got = read(
            ("user", "go"), ("assistant", [use(name="ToolSearch")]), ("user", [result([reference])]), tools=[TOOL]
        )
        assert got.loaded == (TOOL,)
        shown = got.messages[-1]["content"].removeprefix("<functions>\n<function>")
        shown = json.loads(shown.removesuffix("</function>\n</functions>"))
        assert shown == {"description": "Later.", "name": "Cron", "parameters": TOOL["input_schema"]}

    def test_additions_and_removals_in_system_messages(self) -> None:
        def change(kind: str, **tool: Any) -> dict[str, Any]:
            return {"type": f"tool_{kind}", "tool": tool}

        added = change("addition", type="tool_definition", definition=TOOL)
        again = change("addition", type="tool_reference", name="Cron")
        gone = change("removal", type="tool_reference", name="Cron")
        unknown = change("addition", type="tool_reference", name="Nix")
        got = read(("user", "go"), ("system", [added, again, gone, unknown]))
        assert got.loaded == (TOOL,)
        content = got.messages[0]["content"]
        assert content.count("<function>") == 2
        assert "Cron is no longer available" in content and "Nix is not available" in content


@pytest.mark.parametrize(
    ("messages", "words_"),
    [
        ([("user", [{"type": "image", "source": {}}])], ["messages.0.0", "images are not supported"]),
        ([("user", [text("x"), {"type": "document"}])], ["messages.0.1", "Documents"]),
        ([("user", [{"type": "search_result"}])], ["Search results"]),
        ([("user", [{"type": "zebra"}])], ["'zebra'"]),
        ([("assistant", [{"type": "server_tool_use"}])], ["'server_tool_use'"]),
        ([("user", "a"), ("system", [{"type": "image"}])], ["messages.1.0"]),
        (
            [("user", "a"), ("assistant", [use()]), ("user", [result([{"type": "image"}])])],
            ["messages.2.0.content.0", "images"],
        ),
        (
            [("user", "a"), ("system", [{"type": "tool_addition", "tool": {"type": "mcp_tool_reference"}}])],
            ["mcp_tool"],
        ),
    ],
)
def test_what_a_text_model_cannot_read_is_refused_by_name(messages: Any, words_: list[str]) -> None:
    with pytest.raises(UnsupportedError) as error:
        read(*messages)
    assert all(word in str(error.value) for word in words_)


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([("user", [{"text": "x"}])], "messages.0.0: must be a block"),
        ([("user", [{"type": "text"}])], "messages.0.0.text: must be a string"),
        ([("user", [{"type": "text", "text": 5}])], "messages.0.0.text"),
        ([("assistant", [{"type": "tool_use", "id": "1", "name": "f", "input": []}])], "input: must be an object"),
        ([("assistant", [{"type": "tool_use", "name": "f"}])], "messages.0.0.id"),
        ([("user", [result("x")])], "tool_use_id: no tool_use block"),
        ([("user", "a"), ("assistant", [use()])], "tool_result blocks must follow"),
        ([("user", "a"), ("assistant", [use()]), ("user", [result(7)])], "must be a string or a list"),
        ([("user", "a"), ("system", [{"type": "tool_addition"}])], "tool: must be an object"),
    ],
)
def test_malformed_blocks_are_named(messages: Any, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        read(*messages)
