"""A DeepSeek-V2-shaped model in the hub cache whose tokenizer claims a shorter limit than its positions.

A tokenizer's `model_max_length` of 16,384 once broke 18k-token prompts on a 163,840-position model.
"""

import json

import mlx.core as mx
import pytest
from references import load_reference
from tokenizers import Tokenizer, models, pre_tokenizers

from mlx_lm import load, stream_generate
from mlx_lm.errors import ContextLengthError

REPO = "mlx-community/DeepSeek-Coder-V2-Lite-Instruct-4bit-mlx"
POSITIONS = 163_840


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """The tiny model under the real repository's name, where huggingface_hub keeps it."""
    commit = "0" * 40
    root = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    folder = root / "snapshots" / commit
    reference = load_reference("deepseek_v2/lite")
    reference.save_checkpoint(folder)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": POSITIONS}
    (folder / "config.json").write_text(json.dumps(config))
    size = reference.logits.shape[-1]
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"model_max_length": 16_384, "eos_token": "t1", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return REPO


def test_the_models_own_context_counts(planted):
    model, tokenizer = load(planted)
    ids = tokenizer.encode("t5 t6 t7 t8 " * 5_000)
    assert len(ids) == 20_000  # nothing is cut at 16,384
    (response,) = stream_generate(model, tokenizer, ids, max_tokens=1)
    assert response.prompt_tokens == 20_000
    with pytest.raises(ContextLengthError, match=f"{POSITIONS + 1:,} tokens.*{POSITIONS:,}"):
        next(stream_generate(model, tokenizer, mx.full((POSITIONS + 1,), 5, mx.int32)))


def test_the_users_limit_reaches_the_tokenizer(planted):
    _, tokenizer = load(planted, tokenizer_config={"model_max_length": 100_000, "truncation_side": "left"})
    assert tokenizer.model_max_length == 100_000 and tokenizer.truncation_side == "left"
    assert len(tokenizer.encode("t5 " * 120_000)) == 120_000
