"""`mlx_lm.manage`: listing, inspecting and deleting, in both caches."""

import io
import json
from pathlib import Path

import huggingface_hub.constants
import mlx.core as mx
import pytest

from mlx_lm.cli.manage import main
from mlx_lm.hub.packaged_table import PACKAGED


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One complete hub repository, one that is not, and an unfinished packaged model."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MLX_LM_CACHE", str(tmp_path / "own"))
    for name in ("mlx-community/One", "other/Two"):
        root = tmp_path / "hf" / ("models--" + name.replace("/", "--"))
        snapshot, blobs = root / "snapshots" / ("b" * 40), root / "blobs"
        for folder in (snapshot, blobs, root / "refs"):
            folder.mkdir(parents=True)
        (root / "refs" / "main").write_text("b" * 40)
        config = {"model_type": "llama", "quantization": {"group_size": 64, "bits": 4, "model.x": {"bits": 8}}}
        (blobs / "c").write_text(json.dumps(config))
        (snapshot / "config.json").symlink_to("../../blobs/c")
        if name.endswith("One"):
            mx.save_safetensors(str(blobs / "w.safetensors"), {"a": mx.ones((4, 4), mx.bfloat16)})
            (snapshot / "model.safetensors").symlink_to("../../blobs/w.safetensors")
            (blobs / "r").write_text("---\nlicense: apache-2.0\n---\n# One\n")
            (snapshot / "README.md").symlink_to("../../blobs/r")
    unfinished = tmp_path / "own" / "packaged" / "smollm2"
    unfinished.mkdir(parents=True)
    (unfinished / (PACKAGED["smollm2"].file + ".partial")).write_bytes(bytes(1_000))
    return tmp_path


def test_scan_lists_both_caches(caches: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--scan"]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == ["mlx-community/One", "other/Two", "smollm2"]
    assert shown.out.count("(incomplete)") == 2
    assert "3 models" in shown.err
    assert main(["--scan", "--pattern", "MLX", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [(entry["name"], entry["source"], entry["complete"]) for entry in entries] == [
        ("mlx-community/One", "hub", True)
    ]
    assert entries[0]["revision"] == "b" * 40


def test_without_any_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("MLX_LM_CACHE", str(tmp_path / "none"))
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_inspect(caches: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--inspect", "mlx-community/One", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model_type"], facts["license"], facts["storage"]) == ("llama", "apache-2.0", {"BF16": 1})
    assert facts["quantization"] == {"group_size": 64, "bits": 4}
    assert {file["name"] for file in facts["files"]} == {"config.json", "model.safetensors", "README.md"}
    assert main(["--inspect", "mlx-community/One"]) == 0
    assert "model_type    llama" in capsys.readouterr().out
    assert main(["--inspect", "other/Two"]) == 0
    assert "problem" in capsys.readouterr().err
    assert main(["--inspect", str(caches / "hf")]) == 0
    assert main(["--inspect", "nobody/Nothing"]) == 1
    shown = capsys.readouterr()
    assert "not cached" in shown.err


def test_delete_asks_first(caches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    place = caches / "hf" / "models--mlx-community--One"
    for answer, kept in (("n\n", True), ("", True), ("yes\n", False)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert main(["--delete"]) == 0
        assert place.exists() is kept
    shown = capsys.readouterr()
    assert shown.err.count("mlx-community/One") == 3
    assert "Deleted 1 models" in shown.out
    assert (caches / "hf" / "models--other--Two").exists()


def test_delete_by_name_and_without_a_match(caches: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--delete", "smollm2", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": ["smollm2"], "bytes": 1000}
    assert main(["--delete", "smollm2", "--yes"]) == 1
    assert main(["--delete", "--pattern", "nothing-here", "--yes"]) == 1
    assert (caches / "hf" / "models--mlx-community--One").exists()


def test_delete_and_scan_exclude_each_other(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--scan", "--delete"])
    assert "not allowed with" in capsys.readouterr().err
