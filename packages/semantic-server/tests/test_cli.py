"""The commands."""

import logging
import os
from pathlib import Path

import mlx.core as mx
import pytest

from semantic.application.batch_engine import MemoryWatch
from semantic.entrypoints.cli import _positions, main


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_version_and_config(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMANTIC_MLX_KV_BITS", "none")
    assert main(["version"]) == main(["config"]) == 0
    out = capsys.readouterr().out
    assert "semantic-server" in out and 'kv_bits = "none"' in out and "port = 8000" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["serve", "--reload"], "--reload"),
        (["serve", "-w", "2"], "workers"),
        (["serve", "-p", "70000"], "port"),
        (["serve", "-h", "0.0.0.0"], "API key"),
        (["tune"], "mlx_lm.benchmark"),
    ],
)
def test_what_is_refused(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEMANTIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("SEMANTIC_AGENT_EVICT_TO_DISK", "false")
    assert main(arguments) == 2
    assert word in capsys.readouterr().err


def test_memory_is_watched(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, used = MemoryWatch(), [1.5, 20.5, 20.6, 24.5, 23.0]
    monkeypatch.setattr(mx, "get_active_memory", lambda: int(used.pop(0) * 1e9))
    with caplog.at_level(logging.DEBUG, "semantic"):
        while used:
            watch.step()
    assert "MLX memory: 1.50 GB" in caplog.text
    assert [record.levelname for record in caplog.records if record.levelno > logging.DEBUG] == ["WARNING", "CRITICAL"]


@pytest.mark.usefixtures("offline")
def test_positions_are_read_from_the_files() -> None:
    assert _positions("no/such-model") is None
    folder = next(Path(os.environ["HF_HUB_CACHE"]).glob("models--*/snapshots/*"))
    assert _positions(str(folder)) == 163_840
