"""A real server for system tests: `mlx_lm.server` in a process of its own, on a free port of loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_folders import write_model

__all__ = ["Served", "served", "served_tiny"]

_LISTENING = re.compile(r"Listening on (http://[^\s]+)")
_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """A running server: its address, its process, and what it logged so far."""

    url: str
    process: subprocess.Popen[str]
    log: list[str]


@contextmanager
def served(*options: str, folder: Path) -> Iterator[Served]:
    """A server with these command-line options, run in `folder`; ready when it is given, ended by SIGTERM."""
    command = [sys.executable, "-m", "mlx_lm.server", "--port", "0", *options]
    source = str(Path(__file__).parents[2] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    log: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda lines: log.extend(lines), args=(process.stderr,), daemon=True)
    reader.start()
    try:
        yield Served(_ready(process, log), process, log)
    finally:
        process.terminate()
        try:
            status = process.wait(60)
        finally:
            process.kill()
            process.wait()
            reader.join(10)
            process.stderr.close()
    assert status == 0, "".join(log[-50:])


@contextmanager
def served_tiny(folder: Path, *options: str) -> Iterator[Served]:
    """A server of a tiny llama named `tiny`, with random weights."""
    model = write_model(folder / "tiny", "llama")
    with served("--model", str(model), *options, folder=folder) as server:
        yield server


def _ready(process: subprocess.Popen[str], log: list[str]) -> str:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = _LISTENING.search("".join(log))
        if found:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with opener.open(found[1] + "/ready", timeout=5) as reply:
                    if reply.status == 200:
                        return found[1]
            except OSError:
                pass
        time.sleep(0.05)
    raise AssertionError("the server did not become ready:\n" + "".join(log[-50:]))
