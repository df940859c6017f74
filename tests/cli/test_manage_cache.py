"""`mlx_lm.manage --cache` on a folder of blocks, and `--describe` on a tiny model."""

import io
import json
from pathlib import Path

import pytest

from mlx_lm.cli.manage import main
from mlx_lm.cli.sizes import byte_count, size_text
from mlx_lm.engine.prefix.disk import DiskStore
from mlx_lm.engine.prefix.frame import StoredArray

A, B = b"a" * 16, b"b" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three chained blocks in one namespace, one block in another."""
    with DiskStore(tmp_path / "cache", budget_bytes=10**6, sync=False) as store:
        for space, count in ((A, 3), (B, 1)):
            parent = None
            for i in range(count):
                array = StoredArray("U8", (1000,), memoryview(bytes(1000)))
                assert store.put(space, bytes([i]) * 16, parent, {"x": array}, {})
                parent = bytes([i]) * 16
        assert store.flush(10)
    return tmp_path / "cache"


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    status = main(list(args))
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_ls(folder: Path, capsys: pytest.CaptureFixture[str]):
    status, out, err = call(capsys, "--cache", "ls", "--cache-dir", str(folder))
    lines = {line.split()[0]: line.split()[1:3] for line in out.splitlines()[1:]}
    assert status == 0 and lines == {A.hex(): ["3", "3"], B.hex(): ["1", "1"]}
    assert err.startswith("4 blocks, ")
    status, out, _ = call(capsys, "--cache", "ls", "--disk-prompt-cache-dir", str(folder), "--json")
    assert status == 0 and {row["namespace"]: row["blocks"] for row in json.loads(out)} == {A.hex(): 3, B.hex(): 1}


def test_check_and_repair(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert call(capsys, "--cache", "check", "--cache-dir", str(folder))[0] == 0
    path = next(folder.glob("02/*"))
    path.write_bytes(path.read_bytes()[:-1])
    status, out, _ = call(capsys, "--cache", "check", "--cache-dir", str(folder))
    assert status == 1 and f"damaged: {path}" in out and path.exists()
    status, out, _ = call(capsys, "--cache", "check", "--cache-dir", str(folder), "--repair", "--json")
    report = {"checked": 4, "removed": 1, "corrupt": [str(path)], "unreadable": []}
    assert status == 0 and json.loads(out) == report and not path.exists()


def test_prune(folder: Path, capsys: pytest.CaptureFixture[str]):
    status, out, _ = call(capsys, "--cache", "prune", "--cache-dir", str(folder), "--namespace", A.hex(), "--json")
    assert status == 0 and json.loads(out)["removed"] == 1
    status, out, _ = call(capsys, "--cache", "prune", "--cache-dir", str(folder), "--cache-bytes", "1.5kB")
    assert status == 0 and out.startswith("Removed 2 blocks")
    assert len(list(folder.glob("??/*"))) == 1


def test_rm_asks(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    status, out, err = call(capsys, "--cache", "rm", "--cache-dir", str(folder))
    assert status == 0 and out == "" and "Delete 4 blocks" in err
    assert "Removed 1 " in call(capsys, "--cache", "rm", "--cache-dir", str(folder), "--namespace", B.hex(), "-y")[1]
    assert "Removed 3 " in call(capsys, "--cache", "rm", "--cache-dir", str(folder), "--yes")[1]
    assert not list(folder.glob("??/*"))


def test_a_folder_in_use_is_only_read(folder: Path, capsys: pytest.CaptureFixture[str]):
    with DiskStore(folder, budget_bytes=10**6, sync=False) as owner:
        assert call(capsys, "--cache", "ls", "--cache-dir", str(folder))[0] == 0
        assert call(capsys, "--cache", "check", "--cache-dir", str(folder))[0] == 0
        for action in (["rm", "--yes"], ["prune", "--cache-bytes", "0"], ["check", "--repair"]):
            status, _, err = call(capsys, "--cache", *action, "--cache-dir", str(folder))
            assert status == 1 and "in use by another process" in err
        assert owner.stats().entries == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ls"], "--cache-dir"),
        (["ls", "--cache-dir", "/nonexistent/folder"], "no such folder"),
        (["prune", "--cache-dir", "FOLDER"], "--cache-bytes"),
        (["rm", "--cache-dir", "FOLDER", "--namespace", "xyz"], "32 hexadecimal"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str):
    status, out, err = call(capsys, "--cache", *[str(folder) if arg == "FOLDER" else arg for arg in args])
    assert status == 1 and out == "" and message in err and len(err.splitlines()) == 1


def test_sizes():
    texts = ("1000", "500MB", "1.5G", "4GiB", "2 kib", "7b")
    assert [byte_count(t) for t in texts] == [1000, 5 * 10**8, 1_500_000_000, 4 * 2**30, 2048, 7]
    for bad in ("", "x", "-1", "5PB", "1e9"):
        with pytest.raises(Exception, match="must be a number of bytes"):
            byte_count(bad)
    assert [size_text(n) for n in (0, 999, 1000, 2.5e9, 7e15)] == ["0 B", "999 B", "1.0 kB", "2.5 GB", "7000.0 TB"]


@pytest.mark.parametrize("kind", ["llama", "window", "hybrid"])
def test_describe(make_model, kind: str, capsys: pytest.CaptureFixture[str]):
    folder = make_model(kind)
    status, out, _ = call(capsys, "--describe", folder, "--json")
    facts = json.loads(out)
    assert status == 0 and facts["context_length"] == 4096 and facts["vocab_size"] == 320
    assert facts["bits_per_weight"] == 32 and facts["parameters"] * 4 == facts["weight_bytes"]
    if kind == "llama":  # 2 layers, keys and values, 1 head of 32, 4 bytes; packed: group scales and biases too
        assert facts["kv_bytes_per_token"]["plain"] == 2 * 2 * 32 * 4
        assert facts["state_bytes_at_context"]["plain"] == 2 * 2 * 32 * 4 * 4096
        assert facts["kv_bytes_per_token"]["4 bit"] < facts["kv_bytes_per_token"]["8 bit"] < 512
    status, out, _ = call(capsys, "--describe", folder)
    assert status == 0 and "32.00 bits per weight" in out and "per token" in out
    assert {"llama": "full state", "window": "rotating state", "hybrid": "recurrent state"}[kind] in out


def test_describe_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status, out, err = call(capsys, "--describe", str(tmp_path))
    assert status == 1 and out == "" and "config.json" in err
