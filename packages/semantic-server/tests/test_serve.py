"""What scripts do with the semantic server: load the model, start the server, post a message, read the log."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL

from semantic.adapters.outbound.mlx_model_loader import MLXModelLoader


@pytest.mark.usefixtures("offline")
def test_the_loader(caplog: pytest.LogCaptureFixture) -> None:
    # huggingface_hub reads its environment once, when it is imported: a process of its own is sure to see it.
    code = (
        "import logging; logging.basicConfig(level='INFO');"
        "from semantic.adapters.outbound.mlx_model_loader import MLXModelLoader;"
        f"model, tokenizer = MLXModelLoader().load_model({MODEL!r});"
        "assert tokenizer.model_max_length == 100000;"
        "assert len(tokenizer.encode('test ' * 18500)) > 16000;"
        "assert tokenizer.truncation_side == 'left'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Tokenizer max length: 100,000 tokens" in done.stderr


def test_a_smaller_context_by_argument() -> None:
    assert MLXModelLoader(8192).max_context_length == 8192


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def ready(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server is not ready")


def test_serve_answers_and_logs(offline: Path) -> None:
    log = offline / "server.log"
    more = {"SEMANTIC_AGENT_CACHE_DIR": str(offline / "caches"), "SEMANTIC_MLX_KV_BITS": "4"}
    dropped = ("SEMANTIC_API_KEY", "ANTHROPIC_API_KEY")
    environment = {**{k: v for k, v in os.environ.items() if k not in dropped}, **more}
    with log.open("wb") as file:
        command = [sys.executable, "-m", "semantic.entrypoints.cli", "serve", "-p", "0", "-l", "DEBUG"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            end = time.monotonic() + 90
            while not (found := re.search(r"Listening on (http://\S+)", log.read_text())) and time.monotonic() < end:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            assert found is not None, log.read_text()
            ready(found[1], process)
            messages = [{"role": "user", "content": "Say something."}]
            body = {"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": messages, "temperature": 0}
            reply = post(f"{found[1]}/v1/messages", body)
            assert reply["type"] == "message" and reply["usage"]["output_tokens"] == 8
            too_long = [{"role": "user", "content": "test " * 110_000}]
            with pytest.raises(urllib.error.HTTPError) as error:
                post(f"{found[1]}/v1/messages", {**body, "messages": too_long})
            message = json.load(error.value)["error"]["message"]
            assert re.fullmatch(r"prompt is too long: \d+ tokens > 100000 maximum", message)
        finally:
            process.terminate()
            status = process.wait(30)
    written = log.read_text()
    assert status == 0, written[-3000:]
    assert "Tokenizer max length: 100,000" in written
    assert "Response: 1 blocks" in written
    assert re.search(r"MLX memory: \d+\.\d\d GB", written)
