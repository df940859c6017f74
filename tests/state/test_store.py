"""Saved prompt caches: round trips, and what does not fit is refused."""

import mlx.core as mx
import pytest

from mlx_lm.errors import CacheMismatchError, MLXLMError
from mlx_lm.state import (
    ArraysCache,
    AttentionState,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    load_states,
    save_states,
)


def filled(state, n=70):
    x = mx.random.normal((1, 2, n, 32))
    state.update(x, x)
    return state


def everything():
    recurrent = ArraysCache(2)
    recurrent[0] = mx.ones((1, 3, 4))
    recurrent.advance(5)
    return [
        filled(KVCache()),
        filled(RotatingKVCache(16, keep=2)),
        filled(QuantizedKVCache(32, 4)),
        filled(AttentionState(window=9, bits=8, group_size=32)),
        recurrent,
        CacheList(filled(KVCache()), ArraysCache(1)),
        KVCache(),
    ]


def test_round_trip(tmp_path):
    states = everything()
    save_states(tmp_path / "c.safetensors", states, {"model": "x", "note": "y"})
    loaded, metadata = load_states(tmp_path / "c.safetensors")
    assert metadata == {"model": "x", "note": "y"}
    assert [type(s) for s in loaded] == [type(s) for s in states]
    for a, b in zip(states, loaded, strict=True):
        assert a.offset == b.offset and a.size() == b.size()
        (left, fields), (right, others) = a.saved(), b.saved()
        assert left.keys() == right.keys() and fields == others
        assert all(mx.array_equal(left[k], right[k]) for k in left)
    # What was loaded can go on.
    filled(loaded[0], 3)
    assert loaded[0].offset == 73
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "c.safetensors"
    save_states(file, [filled(KVCache())])
    before = file.read_bytes()

    def fail(path, *_):
        with open(path, "wb") as partial:
            partial.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(OSError, match="disk full"):
        save_states(file, [filled(KVCache())])
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_other_safetensors_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    mx.save_safetensors(str(file), {"a": mx.ones((2, 2))})
    with pytest.raises(CacheMismatchError, match="not a prompt cache"):
        load_states(file)


@pytest.mark.parametrize("seed", range(60))
def test_corrupted_files_are_typed_errors(tmp_path, seed):
    import random

    file = tmp_path / "c.safetensors"
    save_states(file, everything())
    data = bytearray(file.read_bytes())
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(min(len(data), 6000))] = chance.randrange(256)
    file.write_bytes(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
    try:
        states, _ = load_states(file)
        mx.eval([a for s in states for a in s.arrays()])
    except MLXLMError:
        pass
