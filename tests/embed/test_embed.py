"""Encoders against transformers' hidden states, and what the folder says of pooling."""

import json

import mlx.core as mx
import numpy as np
import pytest
from embedding_folders import folder, reference

from mlx_lm.embed import load_embedding_model
from mlx_lm.errors import ConfigError, ContextLengthError, RequestError, WeightsError


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_hidden_states_equal_those_of_transformers(tmp_path, name):
    _, _, ids, hidden = reference(name)
    model = load_embedding_model(folder(tmp_path, name))
    np.testing.assert_allclose(np.array(model.encoder(mx.array(ids))), hidden, atol=2e-5)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(tmp_path):
    model = load_embedding_model(folder(tmp_path, "bert"))
    texts = [model.tokens(t) for t in ("w5 w9", "w7", "w8 w8", "w9 w10 w11 w12")]
    together = np.array(model.embed(texts))
    for row, ids in zip(together, texts, strict=True):
        np.testing.assert_array_equal(row, np.array(model.embed([ids]))[0])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    short = np.array(model.embed(texts, dimensions=8))
    np.testing.assert_allclose(
        short, together[:, :8] / np.linalg.norm(together[:, :8], axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.parametrize(
    ("mode", "expected"), [("cls", lambda h: h[0]), ("mean", lambda h: h.mean(0)), ("max", lambda h: h.max(0))]
)
def test_pooling_is_the_folders(tmp_path, mode, expected):
    path = folder(tmp_path, "bert")
    (path / "1_Pooling").mkdir()
    name = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}[mode]
    (path / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{name}": True, "word_embedding_dimension": 32})
    )
    model = load_embedding_model(path)
    ids = model.tokens("w5 w6")
    wanted = expected(np.array(model.encoder(mx.array([ids])))[0])
    np.testing.assert_allclose(np.array(model.embed([ids]))[0], wanted / np.linalg.norm(wanted), atol=1e-5)


def test_token_ids_get_the_special_tokens_once(tmp_path):
    model = load_embedding_model(folder(tmp_path, "bert"))
    assert model.tokens([5, 6]) == model.tokens("w5 w6") == [2, 5, 6, 3]
    assert model.tokens([2, 5, 6, 3]) == [2, 5, 6, 3]


def test_bad_input_is_refused(tmp_path):
    model = load_embedding_model(folder(tmp_path, "bert"))
    with pytest.raises(ContextLengthError):
        model.tokens("w5 " * 60)
    with pytest.raises(RequestError, match="60"):
        model.tokens([5, 60])
    with pytest.raises(RequestError, match="dimensions"):
        model.embed([[2, 3]], dimensions=33)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 33}, "num_attention_heads"),
        ({"hidden_act": "tangens"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"vocab_size": None}, "vocab_size"),
        ({"model_type": "llama"}, "llama"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        load_embedding_model(folder(tmp_path, "bert", **change))


def test_missing_tensors_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"layer\.2"):
        load_embedding_model(folder(tmp_path, "bert", num_hidden_layers=3))
