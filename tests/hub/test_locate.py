"""Names to files: the order of places, untrusted names, the hub through a stand-in for huggingface_hub."""

import json
from pathlib import Path
from typing import Any

import gguf_files
import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import mlx.core as mx
import pytest
from httpx import Request, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lm.errors import (
    ConfigError,
    DownloadError,
    MLXLMError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from mlx_lm.hub import default_model, packaged, remote, resolve


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and package cache; neither the hub nor a package index can be reached."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route")

    def no_package(name: str, *, progress: bool) -> Path:
        raise DownloadError(f"{name}: no package index")  # hypothesis does come up with the names of packaged models

    cache = tmp_path / "hf"
    monkeypatch.setattr(packaged, "fetch", no_package)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(remote, "_list_files", refuse)
    monkeypatch.setenv("MLX_LM_CACHE", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    return cache


def plant(cache: Path, repo: str, files: dict[str, str] | None = None) -> Path:
    """A complete repository in the layout of the hub cache."""
    root = cache / ("models--" + repo.replace("/", "--"))
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    for name, text in (files or {"config.json": '{"model_type": "llama"}'}).items():
        (snapshot / name).write_text(text)
    if files is None:
        mx.save_safetensors(str(snapshot / "model.safetensors"), {"a": mx.ones(2)})
    return snapshot


NAMES = ["", " ", "-x", "--model", "a\0b", "a\nb", "x" * 5_000, "\ud800", "https://h/m", "file:///etc", "file:x"]
NAMES += ["../x", "/no/such", "~nobody-here/x", "org/..", "org/a..b", "org/a--b", "org/.x", "org/-x", "org/x."]
NAMES += ["a b", "a/b/c", "%2e%2e/x"]
NAMES += ["org/m:../x.gguf", "org/m:/x.gguf", "org/m:*.gguf", "../m:x.gguf", "org/m:a//b.gguf", "C:\\x", "x" * 97]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_bad_names_are_refused_before_anything_is_asked(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "_probe", lambda request: pytest.fail("the hub was asked"))
    with pytest.raises(ModelNotFoundError):
        resolve(name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=120))
def test_any_name_gives_a_typed_error_or_files(name: str):
    try:
        assert resolve(name).folder.is_dir()
    except MLXLMError as error:
        assert str(error)


@pytest.mark.parametrize("revision", ["", "-x", "a..b", "a b", "x" * 300, "a\0"], ids=lambda name: ascii(name)[:9])
def test_bad_revisions(revision: str):
    with pytest.raises(ModelNotFoundError, match="revision"):
        resolve("org/model", revision=revision)


def test_local_folder_and_file(tmp_path: Path):
    folder = tmp_path / "smollm2"  # a folder wins over the packaged model of that name
    folder.mkdir()
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        resolve("smollm2")
    file = gguf_files.write(folder / "m.gguf", gguf_files.base_metadata(), gguf_files.llama_tensors())
    for name in (str(folder), str(file), "smollm2", "./smollm2"):
        found = resolve(name)
        assert (found.source, found.gguf and found.gguf.name, found.revision) == ("local", "m.gguf", None)
    (folder / "other.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"several.*m\.gguf"):
        resolve("smollm2")
    (folder / "config.json").write_text("{}")
    assert resolve("smollm2").gguf is None
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"not a \.gguf"):
        resolve("x.bin")


def test_the_config_is_checked_early(tmp_path: Path):
    def refuse(config: dict[str, Any]) -> None:
        raise UnsupportedModelError(config["model_type"])

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "wonder"}')
    with pytest.raises(UnsupportedModelError, match="wonder"):
        resolve("m", check_config=refuse)
    gguf_files.write(tmp_path / "m.gguf", gguf_files.base_metadata(), gguf_files.llama_tensors())
    with pytest.raises(UnsupportedModelError, match="llama"):
        resolve("m.gguf", check_config=refuse)
    for text in ("[]", "{", '{"a":' * 50_000):
        (tmp_path / "m" / "config.json").write_text(text)
        with pytest.raises(ConfigError):
            resolve("m", check_config=refuse)


def test_local_paths_can_be_switched_off(tmp_path: Path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert resolve("m").source == "local"
    with pytest.raises(ModelNotFoundError):
        resolve("./m", allow_local=False)
    with pytest.raises(DownloadError):
        resolve("m", allow_local=False)


def test_packaged_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match="downloads are off"):
        resolve("smollm2", allow_download=False)
    monkeypatch.setattr(packaged, "fetch", lambda name, progress: tmp_path / f"{name}.gguf")
    found = resolve("smollm2")
    assert (found.source, found.gguf) == ("packaged", tmp_path / "smollm2.gguf")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("smolm2", "smollm2"),
        ("SmolLM2-135M", "smollm2"),
        ("gemma3-270m", "gemma-3-270m"),
        ("qwen2.5-coder", "qwen2.5-coder-1.5b"),
        ("gpt2", None),
        ("org/smolm2", None),
    ],
)
def test_a_slip_in_the_name_of_a_packaged_model(name: str, meant: str | None, monkeypatch: pytest.MonkeyPatch):
    def unknown(repo: str, revision: str | None) -> list[str]:
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=Response(404, request=Request("GET", "")))

    with pytest.raises(DownloadError, match="cannot be reached") as without_hub:
        resolve(name)
    with pytest.raises(ModelNotFoundError, match="downloads are off") as offline:
        resolve(name, allow_download=False)
    monkeypatch.setattr(remote, "_list_files", unknown)
    with pytest.raises(ModelNotFoundError, match="has no model") as with_hub:
        resolve(name)
    for raised in (without_hub, offline, with_hub):
        said = str(raised.value)
        assert said.endswith(f"Did you mean the packaged model {meant!r}?") if meant else "mean" not in said


def test_a_cached_repository_needs_no_hub(no_network: Path):
    snapshot = plant(no_network, "org/model")
    for online in (True, False):
        found = resolve("org/model", allow_download=online)
        assert (found.folder, found.source, found.revision) == (snapshot, "hub", "a" * 40)
    assert resolve("org/model", revision="a" * 40).folder == snapshot
    with pytest.raises(DownloadError, match="cannot be reached"):
        resolve("org/other")
    with pytest.raises(ModelNotFoundError, match="downloads are off"):
        resolve("org/other", allow_download=False)


def test_an_incomplete_repository_is_not_used(no_network: Path):
    snapshot = plant(no_network, "org/model")
    weight_map = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(DownloadError, match="not complete"):
        resolve("org/model")


def test_gguf_in_a_repository(no_network: Path, monkeypatch: pytest.MonkeyPatch):
    snapshot = plant(no_network, "org/model", {"m.gguf": "GGUF"})
    assert resolve("org/model:m.gguf").gguf == snapshot / "m.gguf"
    with pytest.raises(DownloadError):
        resolve("org/model:n.gguf")
    monkeypatch.setattr(remote, "_list_files", lambda repo, revision: ["m.gguf"])
    with pytest.raises(ModelNotFoundError, match=r"org/model:m\.gguf"):
        resolve("org/model")
    with pytest.raises(ModelNotFoundError, match=r"m\.gguf"):
        resolve("org/model:n.gguf")


def test_the_config_is_fetched_and_checked_before_the_weights(no_network: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []

    def download(repo: str, *, allow_patterns: list[str], **kwargs: Any) -> str:
        asked.append(allow_patterns)
        return str(snapshot)

    def refuse(config: dict[str, Any]) -> None:
        raise UnsupportedModelError("no")

    snapshot = plant(no_network, "org/model")
    monkeypatch.setattr(remote, "_list_files", lambda repo, revision: ["config.json", "model.safetensors", "evil.py"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UnsupportedModelError):
        resolve("org/model", check_config=refuse)
    assert asked == [["config.json"]]
    resolve("org/model", progress=False)
    assert "*.py" not in asked[-1]
    resolve("org/model", trust_remote_code=True)
    assert "*.py" in asked[-1]


def test_default_model(no_network: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(packaged, "fetch", lambda name, progress: no_network / f"{name}.gguf")
    assert default_model("org/model").name == "smollm2"
    shown = capfd.readouterr().err
    assert shown.count("\n") == 1
    assert "org/model is not cached" in shown
    plant(no_network, "org/model")
    assert default_model("org/model").source == "hub"
    assert capfd.readouterr().err == ""
