"""How much memory tokens are given."""

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st

from mlx_lm.state.buffer import TokenBuffer


def _held(prompt: int, answer: int, expected: int) -> tuple[TokenBuffer, list[int]]:
    """A buffer of so many tokens, and its capacities in turn."""
    buffer, capacities = TokenBuffer(), []
    buffer.expected = expected
    for length in (prompt, *[1] * answer):
        buffer.append(mx.zeros((1, 1, length, 2)))
        if capacities[-1:] != [buffer.capacity]:
            capacities.append(buffer.capacity)
    return buffer, capacities


def test_an_answer_that_is_expected_is_copied_less_often():
    assert _held(512, 200, 0)[1] == [576, 768]
    assert _held(512, 200, 712)[1] == [768]
    assert _held(512, 200, 100_000)[1] == [768]  # half as many again, for who may stop soon
    assert _held(2000, 300, 2600)[1] == [2624]


@given(st.integers(1, 600), st.integers(0, 80), st.integers(0, 3000))
def test_there_is_no_more_room_than_expected_but_for_a_step(prompt, answer, expected):
    buffer, capacities = _held(prompt, answer, expected)
    plain = _held(prompt, answer, 0)[1]
    assert buffer.length == prompt + answer <= buffer.capacity
    assert buffer.capacity <= max(plain[-1], expected + 64) and len(capacities) <= len(plain)
