"""Keys: equal only for equal tokens, computed by the same thing."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mlx_lm.engine.prefix.keys import BLOCK_TOKENS, chain, namespace

ROOT = namespace({"model": "x"})


@given(st.integers(0, 3 * BLOCK_TOKENS + 5))
def test_whole_blocks_only(count):
    keys = chain(ROOT, list(range(count)))
    assert len(keys) == count // BLOCK_TOKENS and len(set(keys)) == len(keys)


@given(st.integers(0, 4 * BLOCK_TOKENS - 1), st.integers(-1, 2**31))
def test_a_changed_token_changes_its_block_and_all_after(place, token):
    tokens = [7] * (4 * BLOCK_TOKENS)
    changed = list(tokens)
    changed[place] = token
    same = [a == b for a, b in zip(chain(ROOT, tokens), chain(ROOT, changed), strict=True)]
    block = place // BLOCK_TOKENS
    assert same == [True] * block + [token == 7] * (4 - block)


def test_moved_blocks_have_other_keys():
    a, b = [1] * BLOCK_TOKENS, [2] * BLOCK_TOKENS
    assert len({*chain(ROOT, a + b), *chain(ROOT, b + a)}) == 4


def test_thirty_changes_of_what_computes():
    """Model, adapter, tokenizer, states, settings, salt: no two of them share a key."""
    names = ("model", "adapter", "tokenizer", "states", "kv", "salt")
    spaces = [
        namespace({name: str(value) for name, value in zip(names, values, strict=True)})
        for values in itertools.islice(itertools.product(("a", "b"), repeat=6), 64)
    ]
    assert len(set(spaces)) == 64
    assert len({chain(space, [1] * BLOCK_TOKENS)[0] for space in spaces}) == 64


def test_order_of_parts_does_not_matter():
    assert namespace({"a": 1, "b": [2]}) == namespace({"b": [2], "a": 1})
