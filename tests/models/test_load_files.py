"""A model and its tokenizer, read side by side: whichever fails, its own error comes out, and nothing hangs."""

import threading
from pathlib import Path

import pytest
from model_folders import write_model

from mlx_lm import hub, load
from mlx_lm.errors import ConfigError, MLXLMError, ModelFileError, TokenizerError
from mlx_lm.models.load import load_files
from mlx_lm.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(write_model(tmp_path / "model", "llama"))


def _message(make: object, error: type[MLXLMError]) -> str:
    with pytest.raises(error) as caught:
        make()  # type: ignore[operator]
    return str(caught.value)


def test_both_are_read(folder: Path) -> None:
    model, tokenizer, config = load(str(folder), return_config=True)
    assert (model.model_type, config["model_type"]) == ("llama", "llama")
    assert tokenizer.eos_token_ids == load_tokenizer(folder).eos_token_ids
    assert tokenizer.encode("The quick fox") == load_tokenizer(folder).encode("The quick fox")


def test_the_end_tokens_follow_the_callers_config(folder: Path) -> None:
    _, tokenizer = load(str(folder), model_config={"eos_token_id": [1, 7]})
    assert tokenizer.eos_token_ids >= {1, 7}
    _, tokenizer = load(str(folder), lazy=True, model_config={"eos_token_id": [1, 9]})
    assert tokenizer.eos_token_ids >= {1, 9}


@pytest.mark.parametrize("text", [None, "{", '{"version": "1.0"}'])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_tokenizers_error_is_that_of_load_tokenizer(folder: Path, text: str | None, lazy: bool) -> None:
    if text is None:
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").write_text(text)
    alone = _message(lambda: load_tokenizer(folder), TokenizerError)
    assert _message(lambda: load(str(folder), lazy=lazy), TokenizerError) == alone


def test_a_models_error_comes_first_and_leaves_no_thread(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(MLXLMError):
        load(str(folder), adapter_path=str(folder / "nowhere"))
    for thread in [t for t in threading.enumerate() if t.name == "mlx_lm ahead"]:
        thread.join(20)
        assert not thread.is_alive()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    _message(lambda: load(str(folder)), ModelFileError)
    (folder / "config.json").write_text('{"model_type": "nothing-like-it"}')
    _message(lambda: load(str(folder)), ConfigError)


def test_meanwhile_is_called_where_there_is_time(folder: Path) -> None:
    called = threading.Event()
    load_files(hub.resolve(str(folder)), meanwhile=called.set)
    assert called.wait(20)
