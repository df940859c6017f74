"""Claude Code, the npm client, unmodified, in a network namespace that has nothing but loopback.

`CLAUDE_CODE_BIN` names its native binary (npm's @anthropic-ai/claude-code-linux-x64, file `claude`); without it, or
where a user may make no namespaces, these tests are skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BINARY = os.environ.get("CLAUDE_CODE_BIN", "")
SESSION = Path(__file__).parent / "claude_code_session.py"
LOOPBACK = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def _possible() -> bool:
    if not (BINARY and Path(BINARY).is_file() and shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*LOOPBACK, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _possible(), reason="needs CLAUDE_CODE_BIN and network namespaces")


def session(folder: Path, *runs: list[str], seconds: float = 60, **spec: Any) -> dict[str, Any]:
    """What happened: `runs` of the client, `works` and `usages` of the server."""
    spec |= {"binary": BINARY, "folder": str(folder), "runs": runs, "seconds": seconds}
    command = [*LOOPBACK, sys.executable, str(SESSION), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=len(runs) * seconds + 120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_tool_round_trip(tmp_path: Path) -> None:
    got = session(tmp_path, ["-p", "Run echo.", "--allowedTools", "Bash", "--model", "local"], script="tool")
    assert got["runs"][0]["code"] == 0
    assert got["runs"][0]["out"].strip() == "All is done."
    first, second = got["works"]  # two requests: nothing was tried again
    assert "Bash" in first["tools"] and "DeferredToolPlaceholder" not in first["tools"]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert "billing" not in first["messages"][0]["content"]
    assert "# Environment" in first["messages"][1]["content"]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    asked, found = second["messages"][len(first["messages"]) :][:2]
    assert asked["content"] == "I look." and asked["reasoning_content"] == "I should look."
    assert asked["tool_calls"][0]["function"]["arguments"]["command"] == "echo marker-$((40+2))"
    assert found["role"] == "tool" and "marker-42" in found["content"]


def test_a_prompt_that_is_too_long_is_understood(tmp_path: Path) -> None:
    got = session(tmp_path, ["-p", "Hi.", "--model", "local"], script="too long")
    assert "prompt is too long" in got["runs"][0]["out"].lower()
    assert len(got["works"]) <= 3


def test_a_stream_that_breaks_is_asked_for_again_whole(tmp_path: Path) -> None:
    got = session(tmp_path, ["-p", "Hi.", "--model", "local"], script="broken")
    assert got["runs"][0]["out"].strip() == "All is done."
    assert len(got["works"]) == 2


@pytest.mark.real_model
def test_smollm2_answers_twice(tmp_path: Path) -> None:
    common = ["--bare", "--model", "local", "--tools", "", "--system-prompt", "You answer questions briefly."]
    questions = (["-p", "What is the capital of France?"], ["-c", "-p", "And of Italy?"])
    settings = {"model_id": "smollm2", "aliases": {"*": "default_model"}}
    got = session(tmp_path, *([*common, *question] for question in questions), settings=settings, seconds=120)
    assert [run["code"] for run in got["runs"]] == [0, 0]
    assert all(run["out"].strip() for run in got["runs"])
    first, second = got["works"]
    assert second["messages"][:2] == first["messages"]
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"].strip() == got["runs"][0]["out"].strip()


@pytest.mark.real_model
def test_smollm2_repeats_a_call_that_is_run(tmp_path: Path) -> None:
    """The smallest packaged model; its template knows no tools, and it calls them in the server's plain form."""
    call = '<tool_call>\n{"name": "Bash", "arguments": {"command": "echo marker-$((40+2))"}}\n</tool_call>'
    common = ["--bare", "--model", "local", "--tools", "Bash", "--allowedTools", "Bash", "--max-turns", "2"]
    common += ["--system-prompt", "You are a helpful AI assistant.", "-p"]
    runs = ([*common, f"{words}{call}"] for words in ("Write exactly:\n", "Write exactly this:\n"))
    settings = {"model_id": "smollm2", "aliases": {"*": "default_model"}}
    got = session(tmp_path, *runs, settings=settings, seconds=60)
    turns = [work["messages"][2:] for work in got["works"] if work["messages"][-1]["role"] == "tool"]
    assert any(results[0]["content"] == "marker-42" for _, *results in turns), got["works"]
    assert all(asked["tool_calls"] for asked, *_ in turns)


@pytest.mark.real_model("qwen2.5-coder-1.5b")
def test_qwen_uses_a_tool(tmp_path: Path) -> None:
    prompt = "Use the Bash tool to run: echo marker-$((40+2)). Then tell me what it printed."
    arguments = ["--bare", "--model", "local", "--tools", "Bash", "--allowedTools", "Bash", "--max-turns", "4"]
    system = "You are a helpful agent. Call tools when you need them."
    settings = {"model_id": "qwen2.5-coder-1.5b", "aliases": {"*": "default_model"}}
    got = session(tmp_path, ["-p", prompt, *arguments, "--system-prompt", system], settings=settings, seconds=240)
    results = [message for message in got["works"][-1]["messages"] if message["role"] == "tool"]
    assert results and "marker-42" in results[0]["content"]
    assert got["usages"][1]["cached_tokens"] >= 512  # all whole blocks of the first prompt
