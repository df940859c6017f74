"""Damaged bodies end in a Work or in an error of the tree, wherever the damage is."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.errors import MLXLMError
from mlx_lm.server.anthropic.request import reply_of, to_work
from mlx_lm.server.anthropic.schema import COUNT, MESSAGES
from mlx_lm.server.work import Work

BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "stream": True,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "stop_sequences": ["a"],
    "metadata": {"user_id": "u"},
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "thinking": {"type": "enabled", "budget_tokens": 5, "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "tools": [
        {
            "name": "f",
            "description": "d",
            "input_schema": {"type": "object"},
            "strict": True,
            "allowed_callers": ["direct"],
        },
        {"name": "g", "input_schema": {"type": "object"}, "defer_loading": True, "type": "custom"},
    ],
    "messages": [
        {"role": "user", "content": "q"},
        {"role": "system", "content": [{"type": "tool_addition", "tool": {"type": "tool_reference", "name": "g"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": "mlxt1.aGk="},
                {"type": "text", "text": "t"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "r"}, {"type": "tool_reference", "tool_name": "g"}],
                }
            ],
        },
        {
            "role": "system",
            "content": [
                {
                    "type": "tool_addition",
                    "tool": {"type": "tool_definition", "definition": {"name": "h", "input_schema": {}}},
                },
                {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "h"}},
            ],
        },
    ],
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


PLACES = places(BODY)[1:]


def test_the_body_itself_is_whole() -> None:
    work = to_work(MESSAGES.read(BODY)[0])
    assert [(tool.name, tool.in_prompt) for tool in work.tools] == [("f", True), ("g", False), ("h", False)]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.booleans(), VALUES), min_size=1, max_size=3))
def test_damage_is_named_or_harmless(damage: list[tuple[tuple[Any, ...], bool, Any]]) -> None:
    body = copy.deepcopy(BODY)
    for path, remove, value in damage:
        target: Any = body
        try:
            for key in path[:-1]:
                target = target[key]
            if remove:
                del target[path[-1]]
            else:
                target[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier damage took this place away
    try:
        read = MESSAGES.read(body)[0]
        reply_of(read, "x")
        assert isinstance(to_work(read), Work)
    except MLXLMError as error:
        assert str(error)
    try:
        assert isinstance(to_work(COUNT.read(body)[0]), Work)
    except MLXLMError as error:
        assert str(error)
