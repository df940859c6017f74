"""References of schemas: where they lead, and that others lead nowhere."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_lm.json_pointer import follow

ROOT = {
    "$defs": {"a/b": {"type": "string"}, "m~n": 1, "~1": 2, "": {"": 3}, "none": None},
    "anyOf": [{"type": "null"}, True],
    "0": "zero",
}


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", ROOT),
        ("#/$defs/a~1b", {"type": "string"}),
        ("#/$defs/a~1b/type", "string"),
        ("#/$defs/m~0n", 1),
        ("#/$defs/~01", 2),  # ~0 is read last
        ("#/$defs//", 3),
        ("#/anyOf/0/type", "null"),
        ("#/anyOf/1", True),
        ("#/0", "zero"),
        *((one, None) for one in ("#/anyOf/2", "#/anyOf/-1", "#/anyOf/x", "#/$defs/none/x", "#/$defs/m~0n/real")),
        *((one, None) for one in ("", "/0", "0", "#0", "#name", "#$defs/m~0n", "other.json#/0", "http://h/#/0")),
        *((one, None) for one in (None, 0, ["#"], {})),
    ],
    ids=repr,
)
def test_where_references_lead(reference: Any, found: Any) -> None:
    assert follow(ROOT, reference) == found


@given(reference=st.one_of(st.text(alphabet="#/~01²x$", max_size=12), st.none(), st.integers()))
def test_nothing_raises(reference: Any) -> None:
    follow([[{"x": [1, "text"]}, 2], ROOT], reference)
