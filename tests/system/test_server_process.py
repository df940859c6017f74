"""The server as a process: what it prints, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from model_folders import write_model

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("served") / "tiny", "llama"))


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlx_lm.server", *arguments]


def _environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLX_LM_")}
    return {**kept, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", **more}


def _run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments), capture_output=True, text=True, timeout=60, env=_environment(**environment), cwd=cwd
    )


class _Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def wait_for(self, pattern: str) -> re.Match[str]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"{pattern!r} was not logged:\n" + "\n".join(self.lines[-20:]))


@contextmanager
def _serving(*arguments: str, **environment: str) -> Iterator[tuple[_Process, str]]:
    with subprocess.Popen(
        _command(*arguments, "--port", "0"), stderr=subprocess.PIPE, text=True, env=_environment(**environment)
    ) as process:
        watched = _Process(process)
        try:
            url = watched.wait_for(r"Listening on (http://\S+)").group(1)
            watched.wait_for(r": Ready$")
            yield watched, url
        finally:
            process.kill()


def test_sigterm_drains(model: str) -> None:
    """An answer that is being written is finished; the process ends with status 0 and listens no more."""
    with _serving("--model", model) as (watched, url):
        body = {"prompt": "the quick", "max_tokens": 1500, "temperature": 0, "stream": True}
        pieces: list[Any] = []
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60, trust_env=False) as reply:
            lines = reply.iter_lines()
            while not next(lines).startswith("data: "):
                pass
            watched.process.send_signal(signal.SIGTERM)
            pieces = [line[6:] for line in lines if line.startswith("data: ")]
        assert pieces[-1] == "[DONE]"
        reasons = [choice["finish_reason"] for piece in pieces[:-1] for choice in json.loads(piece)["choices"]]
        assert reasons[-1] == "length" and len(pieces) > 700
        assert watched.process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False)


def test_an_answer_that_takes_too_long_is_cut_at_the_end_of_the_drain(model: str) -> None:
    with _serving("--model", model, "--drain-seconds", "1") as (watched, url):
        body = {"prompt": "the quick", "max_tokens": 4000, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60, trust_env=False) as reply:
            next(reply.iter_lines())
            start = time.monotonic()
            watched.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            watched.process.send_signal(signal.SIGTERM)
            assert watched.process.wait(20) == 0
            assert time.monotonic() - start < 15


def test_what_is_logged_at_the_start(model: str) -> None:
    with _serving("--model", model, "--max-context-length", "1000", MLX_LM_KV_BITS="4", MLX_LM_KV_GROUP_SIZE="32") as (
        watched,
        url,
    ):
        watched.wait_for(r"Tokenizer max length: 1,000 tokens")
        watched.wait_for(r"Cache of one full context: \d+\.\d\d GB planned for 1,000 tokens, 4 bit in groups of 32")
        watched.wait_for(r"kv_bits from MLX_LM_KV_BITS in the environment")
        assert httpx.get(f"{url}/ready", trust_env=False).status_code == 200


def test_errors_at_the_start_are_one_line(model: str, tmp_path: Path) -> None:
    cases = [
        (("--host", "0.0.0.0", "--model", model), "an API key is needed"),
        (("--model", str(tmp_path / "none")), "No model"),
        (("--model", model, "--max-context-length", "100000"), "has 4,096 positions"),
        (("--model", model, "--pipeline"), "--pipeline is not supported"),
        (("--model", model, "--port", "x"), "--port must be a whole number"),
        (("--model", model, "--config", "none.toml"), "no such file"),
    ]
    for arguments, message in cases:
        done = _run(*arguments, cwd=tmp_path)
        assert done.returncode == 1, (arguments, done.stderr[-500:])
        assert message in done.stderr and "Traceback" not in done.stderr


def test_an_address_that_is_taken(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _run("--model", model, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1 and "cannot be listened on" in done.stderr and "Traceback" not in done.stderr


def test_describe_plans_the_bytes(model: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "default.toml").write_text(f'[mlx]\nmodel_id = "{model}"\nmax_context_length = 2000\n')
    done = _run("--describe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-500:]
    assert "context   2,000 tokens" in done.stdout and "cache " in done.stdout


def test_the_command_is_listed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_lm", "server", "--help"], capture_output=True, text=True, env=_environment()
    )
    assert done.returncode == 0 and "--max-context-length" in done.stdout
