"""A tiny model of DeepSeek-V2-Lite's shape under the name of the real one, in a cache that needs no network."""

import json
from pathlib import Path

import pytest

MODEL = "mlx-community/DeepSeek-Coder-V2-Lite-Instruct-4bit-mlx"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def hf_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for `HF_HOME`. The tokenizer's file says 16,384 tokens, as the real one's."""
    model_folders = pytest.importorskip("model_folders")
    home = tmp_path_factory.mktemp("hf")
    folder = home / "hub" / f"models--{MODEL.replace('/', '--')}"
    snapshot = model_folders.write_model(folder / "snapshots" / COMMIT, "latent")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    path = snapshot / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 16_384}))
    return home


@pytest.fixture
def offline(hf_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and the model where Hugging Face's library looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(hf_home))
    monkeypatch.setenv("HF_HUB_CACHE", str(hf_home / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path
