"""Text streams: stop strings at every split, and what was held back is never lost."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.engine.text import StopSequences, TextStream, check_stop_strings
from mlx_lm.errors import RequestError


class Pieces:
    """A detokenizer whose tokens are indices into a list of texts."""

    def __init__(self, pieces):
        self.pieces, self.last_segment = pieces, ""

    def add_token(self, token):
        self.last_segment = self.pieces[token]

    def finalize(self):
        self.last_segment = ""


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab<", max_size=20),
    cuts=st.lists(st.integers(0, 20)),
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
)
def test_stops_cut_the_text_at_their_first_occurrence(text, cuts, stops):
    points = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(points)]
    stream = TextStream(Pieces(pieces), stops)
    out = ""
    for i in range(len(pieces)):
        out += stream.add(i)
        if stream.stopped is not None:
            break
    else:
        out += stream.finish()
    found = [i for s in stops if (i := text.find(s)) >= 0]
    # The stop that completes first ends the text, so no stop string may be left in it.
    assert all(s not in out for s in stops)
    assert text.startswith(out)
    if not found:
        assert out == text and stream.stopped is None
    else:
        assert stream.stopped is not None


def test_stop_sequences():
    matcher = StopSequences([(1, 2, 3), (9,)]).matcher()
    assert [matcher.advance(t) for t in (1, 2, 1, 2, 3, 4, 9)] == [False, False, False, False, True, False, True]
    assert not StopSequences([]).matcher().advance(5)


@pytest.mark.parametrize("bad", [5, [None], [""], "", [1]])
def test_bad_stops_are_refused(bad):
    with pytest.raises((RequestError, TypeError)):
        check_stop_strings(bad)
