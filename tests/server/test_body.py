"""Bodies that end in a clean refusal."""

import pytest

from mlx_lm.errors import RequestError
from mlx_lm.server.body import parse_json


def test_object_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, "é😀", null, true]}'.encode()) == {"a": [1, 2.5, "é😀", None, True]}
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert parse_json(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deep"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "deep"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
    ],
)
def test_refused(data: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse_json(data)
