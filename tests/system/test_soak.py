"""A server under mixed load for half an hour: memory, descriptors and threads stay where they were.

python -m pytest -m slow tests/system/test_soak.py       MLX_LM_SOAK_SECONDS=1800 is the default
"""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from model_folders import write_model

SECONDS = float(os.environ.get("MLX_LM_SOAK_SECONDS", "1800"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = write_model(tmp_path / "tiny", "hybrid")
    argv = [sys.executable, "-m", "mlx_lm.server", "--model", str(model), "--port", str(port), "--log-level", "ERROR"]
    argv += ["--disk-prompt-cache-dir", str(tmp_path / "prefixes"), "--disk-prompt-cache-bytes", "20MB"]
    process = subprocess.Popen([*argv, "--prompt-cache-bytes", "20MB"])
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended"
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready", trust_env=False).status_code == 200:
                    break
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _usage(pid: int) -> tuple[int, int, int]:
    """Resident kilobytes, descriptors, threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]), len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"])


def _ask(client: httpx.Client, chance: random.Random) -> None:
    words = " ".join(
        chance.choice(["quick", "brown", "fox", "lazy", "dog", "model"]) for _ in range(chance.randrange(2, 300))
    )
    message = [{"role": "user", "content": words}]
    kind = chance.randrange(6)
    if kind == 0:
        client.post("/v1/completions", json={"prompt": words, "max_tokens": 20, "logprobs": 2})
    elif kind == 1:
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        client.post("/v1/chat/completions", json={"messages": message, "max_tokens": 40, "response_format": form})
    elif kind == 2:
        client.post("/v1/messages", json={"model": "x", "messages": message, "max_tokens": 20})
    elif kind == 3:
        client.post("/v1/chat/completions", content=json.dumps({"messages": "no list"}))
    else:  # streamed, and often left in the middle
        body: dict[str, Any] = {"messages": message, "max_tokens": 40, "stream": True, "temperature": 1.0}
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            for count, _ in enumerate(reply.iter_lines()):
                if kind == 4 and count > 8:
                    break


def test_half_an_hour_leaves_nothing_behind(server: tuple[str, int]) -> None:
    url, pid = server
    stop = threading.Event()
    asked = [0] * 3
    failures: list[BaseException] = []

    def work(index: int) -> None:
        chance = random.Random(index)
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            while not stop.is_set():
                try:
                    _ask(client, chance)
                    asked[index] += 1
                except BaseException as error:
                    failures.append(error)
                    return
                stop.wait(0.05)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    samples: list[tuple[int, int, int]] = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and not failures:
        time.sleep(min(5.0, SECONDS / 40))
        samples.append(_usage(pid))
    stop.set()
    for thread in threads:
        thread.join(120)
    assert not failures, failures[0]
    status = httpx.get(f"{url}/status.json", trust_env=False).json()
    assert status["running"] == status["waiting"] == 0
    quarter = len(samples) // 4
    for name, column, slack in (("memory", 0, 1.10), ("descriptors", 1, 1.10), ("threads", 2, 1.0)):
        early = statistics.median(sample[column] for sample in samples[quarter : 2 * quarter])
        late = statistics.median(sample[column] for sample in samples[-quarter:])
        print(f"{name}: {early} in the second quarter, {late} in the last; {sum(asked)} requests")
        assert late <= early * slack + (0 if column else 2000), f"{name} grew from {early} to {late}"
