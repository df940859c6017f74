"""Perplexity: windows, numbers against a direct computation, data files."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm.errors import ContextLengthError, DownloadError, RequestError
from mlx_lm.evaluate import first_token, load_texts, measure_perplexity, perplexity, token_windows
from mlx_lm.models.build import build_model

CONFIG = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
}


class Words:
    """A tokenizer whose tokens are characters."""

    bos_token_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return [*([] if self.bos_token_id is None else [self.bos_token_id]), *(ord(c) % 40 for c in text)]

    def apply_chat_template(self, messages: list[dict[str, str]]) -> list[int]:
        return [t for m in messages for t in self.encode(m["content"])]


def test_equals_a_direct_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "_LOGITS_BYTES", 40 * 4 * 7)  # seven positions at a time
    mx.random.seed(3)
    model = build_model(CONFIG)
    windows = np.random.default_rng(0).integers(0, 40, (5, 12)).tolist()
    logits = np.array(model(mx.array(windows))[:, :-1].astype(mx.float32), np.float64)
    chosen = np.take_along_axis(logits, np.array(windows)[:, 1:, None], -1)[..., 0]
    nll = (np.log(np.exp(logits).sum(-1)) - chosen).reshape(-1)
    done: list[tuple[int, int]] = []
    found = measure_perplexity(model, windows, batch_size=2, progress=lambda *p: done.append(p))
    assert done == [(2, 5), (4, 5), (5, 5)]
    assert (found.tokens, found.windows) == (55, 5)
    assert found.mean_nll == pytest.approx(nll.mean(), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nll.mean()), rel=1e-4)
    error = nll.std(ddof=1) / math.sqrt(nll.size)
    assert found.standard_error == pytest.approx(math.exp(nll.mean()) * error, rel=1e-4)
    one = measure_perplexity(model, windows, batch_size=100)
    assert one.mean_nll == pytest.approx(found.mean_nll, rel=1e-6)


def test_limits() -> None:
    model = build_model(CONFIG)
    with pytest.raises(ContextLengthError, match="33"):
        measure_perplexity(model, [[1] * 33])
    with pytest.raises(RequestError, match="batch size"):
        measure_perplexity(model, [[1, 2]], batch_size=0)


def test_windows() -> None:
    texts = [[1, 2, 3], [4, 5, 6, 7], [8]]
    assert token_windows(texts, 3) == [[1, 2, 3], [4, 5, 6]]
    assert token_windows(texts, 4) == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert token_windows(texts, 3, 1) == [[1, 2, 3]]
    assert token_windows(texts, 3, begin=0) == [[0, 1, 2], [0, 3, 4], [0, 5, 6], [0, 7, 8]]
    assert token_windows([[0, 1, 2], [0, 3]], 3, begin=0) == [[0, 1, 2]]
    for length, count in ((1, 1), (3, 0), (3, -2), (9, -1)):
        with pytest.raises(RequestError):
            token_windows(texts, length, count)

    def endless() -> Any:
        yield [1, 2, 3]
        raise AssertionError("read more than was needed")

    assert token_windows(endless(), 3, 1) == [[1, 2, 3]]


def test_files(tmp_path: Path) -> None:
    words = Words()
    plain = tmp_path / "a.txt"
    plain.write_text("abc")
    assert list(load_texts(str(plain), words)) == [words.encode("abc")]
    records = [
        {"text": "one"},
        {"prompt": "tw", "completion": "o"},
        {"messages": [{"role": "user", "content": "three"}]},
    ]
    lines, whole = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    whole.write_text(json.dumps(records))
    found = list(load_texts(str(lines), words, seed=1))
    assert sorted(found) == sorted(map(words.encode, ("one", "two", "three")))
    assert found == list(load_texts(str(whole), words, seed=1))
    orders = {tuple(map(tuple, load_texts(str(lines), words, seed=s))) for s in range(10)}
    assert len(orders) > 1


@pytest.mark.parametrize("content", ["{", "3", '{"other": 1}', '["text"]', ""])
def test_malformed_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    with pytest.raises(RequestError, match=r"a\.jsonl"):
        list(load_texts(str(file), Words()))


def test_unreachable_dataset_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DownloadError, match="--data-path FILE"):
        list(load_texts("allenai/tulu-3-sft-mixture", Words()))

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(DownloadError, match=r"no network.*--data-path FILE"):
        list(load_texts("allenai/tulu-3-sft-mixture", Words()))


def test_first_token() -> None:
    words = Words()
    assert first_token(words) is None
    words.bos_token_id = 7
    assert first_token(words) == 7
