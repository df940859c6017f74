"""Anthropic's conversations through the chat templates of real models: one system turn, nothing lost, prefixes kept."""

from itertools import pairwise
from typing import Any

import pytest

from mlx_lm import hub
from mlx_lm.models.load import load_files_tokenizer
from mlx_lm.server.anthropic.request import to_work
from mlx_lm.server.anthropic.schema import COUNT
from mlx_lm.server.prompt import ChatStyle, prepare

TOOL: dict[str, Any] = {
    "name": "Bash",
    "description": "Runs a command.",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}
TURN_1: list[Any] = [{"role": "user", "content": "do it"}, {"role": "system", "content": "the environment"}]
CALL = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
TURN_2 = [
    *TURN_1,
    {"role": "assistant", "content": [{"type": "text", "text": "I look."}, CALL]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a file"}]},
    {"role": "system", "content": "a note"},
]
TURN_3 = [
    *TURN_2,
    {"role": "assistant", "content": "done"},
    {"role": "system", "content": "another note"},
    {"role": "user", "content": "and more"},
]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("smollm2", marks=pytest.mark.real_model("smollm2")),
        pytest.param("qwen2.5-coder-1.5b", marks=pytest.mark.real_model("qwen2.5-coder-1.5b")),
    ],
)
def test_turns_of_real_templates(name: str) -> None:
    tokenizer = load_files_tokenizer(hub.resolve(name, allow_download=False), {}, None, False)
    style = ChatStyle(tokenizer, None, len(tokenizer))

    def prepared(messages: list[Any]) -> Any:
        return prepare(to_work(COUNT.read({"messages": messages, "system": "You help.", "tools": [TOOL]})[0]), style)

    turns = [prepared(messages) for messages in (TURN_1, TURN_2, TURN_3)]
    text = turns[-1].text
    assert text.count("<|im_start|>system") == 1 and text.startswith("<|im_start|>system\nYou help.")
    words = ("do it", "the environment", "I look.", '"command": "ls"', "a file", "a note", "done", "another note")
    places = [text.index(word, text.index("do it")) for word in (*words, "and more")]
    assert places == sorted(places)
    opening = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    for earlier, later in pairwise(turns):
        kept = len(earlier.tokens) - len(opening)
        assert later.tokens[:kept] == earlier.tokens[:kept]
