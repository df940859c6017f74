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
