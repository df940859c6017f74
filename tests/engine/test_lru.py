"""LRUPromptCache: the nearest beginning, budgets, types, and the disk behind it."""

import random

import mlx.core as mx
import pytest
from tiny_models import tiny

from mlx_lm.engine import LRUPromptCache
from mlx_lm.models.cache import KVCache, make_prompt_cache


def cache_of(length: int) -> list[KVCache]:
    cache = KVCache()
    cache.update_and_fetch(mx.zeros((1, 1, length, 4)), mx.zeros((1, 1, length, 4)))
    return [cache]


def fetch(lru: LRUPromptCache, tokens: list[int], model="m") -> tuple[int | None, list[int]]:
    cache, rest = lru.fetch_nearest_cache(model, tokens)
    return (None if cache is None else cache[0].offset), rest


def test_old_paths_have_it():
    from mlx_lm.models.cache import LRUPromptCache as old

    assert old is LRUPromptCache


def test_the_nearest_beginning():
    lru = LRUPromptCache()
    assert fetch(lru, [1, 2]) == (None, [1, 2])
    lru.insert_cache("m", [1, 2, 3, 4, 5], cache_of(5))
    assert fetch(lru, [1, 2, 3, 4, 5]) == (5, [])
    assert fetch(lru, [1, 2, 3]) == (2, [3])
    assert fetch(lru, [1, 2, 3, 4, 5, 6, 7]) == (5, [6, 7])
    assert fetch(lru, [1, 2, 9, 9]) == (2, [9, 9])
    assert fetch(lru, [1, 2, 3, 4, 6]) == (4, [6])
    assert fetch(lru, [9]) == (None, [9])
    assert fetch(lru, [1, 2, 3], "other") == (None, [1, 2, 3])
    assert fetch(lru, [1, 2, 3, 4, 5]) == (5, [])  # what was handed out was a copy


def test_longer_entries_replace_their_beginnings():
    lru = LRUPromptCache()
    for length in (5, 6, 2):
        lru.insert_cache("m", list(range(length)), cache_of(length))
    assert len(lru) == 2
    assert lru.stats_by_type()["assistant"]["n_sequences"] == 2
    assert lru.nbytes == lru.stats_by_type()["assistant"]["n_bytes"] > 0


def test_limits_and_types():
    lru = LRUPromptCache(max_size=3)
    for i, kind in enumerate(["system", "user", "assistant", "assistant", "user"]):
        lru.insert_cache("m", [i, 1], cache_of(2), cache_type=kind)
    assert [fetch(lru, [i, 1])[0] for i in range(5)] == [2, 2, None, None, 2]
    lru.trim_to(n_sequences=1)
    assert lru.stats_by_type()["system"]["n_sequences"] == len(lru) == 1
    lru.trim_to(n_bytes=0)
    assert len(lru) == 0 and lru.nbytes == 0
    small = LRUPromptCache(max_bytes=cache_of(2)[0].nbytes)
    small.insert_cache("m", [1, 2], cache_of(2))
    small.insert_cache("m", [2, 3], cache_of(2))
    assert len(small) == 1 and fetch(small, [2, 3])[0] == 2


@pytest.mark.parametrize("kind", ["full", "window", "recurrent", "hybrid", "latent"])
def test_the_longest_wins_wherever_it_lies(kind, tmp_path):
    model, vocab = tiny(kind, max_position_embeddings=4096)
    chance = random.Random(0)
    tokens = [chance.randrange(vocab) for _ in range(420)]
    cache = make_prompt_cache(model)
    model(mx.array([tokens[:300]]), cache)
    first = LRUPromptCache(disk_cache_dir=tmp_path)
    first.insert_cache("m", tokens[:300], cache)
    model(mx.array([tokens[300:400]]), again := [state.copy() for state in cache])
    first.insert_cache("m", tokens[:400], again)
    first.insert_cache("m", tokens[:100], cache_of(100))  # too short for the disk
    first.close()
    wanted = model(mx.array([tokens[400:]]), again)[0, -1]
    second = LRUPromptCache(disk_cache_dir=tmp_path)
    short = make_prompt_cache(model)
    model(mx.array([tokens[:50]]), short)
    second.insert_cache("m", tokens[:50], short)
    assert second.disk.stats().entries == 2
    found, rest = second.fetch_nearest_cache("m", tokens)
    assert rest == tokens[400:]
    assert mx.allclose(model(mx.array([rest]), found)[0, -1], wanted, rtol=0, atol=1e-5)
    assert second.fetch_nearest_cache("m", tokens[:350])[1] in (tokens[300:350], tokens[349:350])
    assert fetch(second, tokens, "another")[0] is None and fetch(second, tokens, object())[0] is None
    for path in tmp_path.glob("??/*"):
        path.write_bytes(b"damaged")
    second.close()
    third = LRUPromptCache(disk_cache_dir=tmp_path)
    assert fetch(third, tokens) == (None, tokens) and third.disk.stats().corrupt >= 1
    third.close()


def test_a_model_replaced_in_place_finds_nothing(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tokens = list(range(300))
    for value, hit in ((1.0, False), (1.0, True), (2.0, False)):
        mx.save_safetensors(str(folder / "model.safetensors"), {"a": mx.full((8,), value)})
        (folder / "config.json").write_text('{"model_type": "llama"}')
        lru = LRUPromptCache(disk_cache_dir=tmp_path / "cache")
        name = (str(folder), None, None)
        assert (fetch(lru, [*tokens, 1], name)[0] == 300) == hit
        lru.insert_cache(name, tokens, cache_of(300))
        lru.close()


def test_memory_alone_survives_a_bad_folder(tmp_path):
    (tmp_path / "file").write_text("")
    lru = LRUPromptCache(disk_cache_dir=tmp_path / "file")
    lru.insert_cache("m", list(range(300)), cache_of(300))
    assert fetch(lru, list(range(300)))[0] == 300
    lru.close()
