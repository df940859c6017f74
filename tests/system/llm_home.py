"""A Hugging Face cache with one small real model, and the `llm` command in a home of its own, without a network."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mlx_lm import convert

MODEL = "mlx-community/SmolLM2-135M-Instruct"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Registers plugins by their modules, as their entry points would, so that nothing needs to be installed for it.
_START = """
import importlib, json, sys
from llm.plugins import pm
for name in json.loads(sys.argv.pop(1)):
    pm.register(importlib.import_module(name), name)
from llm.cli import cli
cli(prog_name="llm")
"""


def plant_model(hf_home: Path) -> Path:
    """SmolLM2 in the layout of the hub's cache; returns its snapshot."""
    folder = hf_home / "hub" / f"models--{MODEL.replace('/', '--')}"
    snapshot = folder / "snapshots" / _COMMIT
    snapshot.parent.mkdir(parents=True)
    convert("smollm2", str(snapshot))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(_COMMIT)
    return snapshot


@dataclass(frozen=True)
class LLM:
    """The `llm` command with only these plugins; `user` holds its settings and log, `hf_home` the models."""

    plugins: tuple[str, ...]
    user: Path
    hf_home: Path

    def run(self, *words: str, stdin: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "LLM_USER_PATH": str(self.user),
            "LLM_LOAD_PLUGINS": "",
            "HF_HOME": str(self.hf_home),
            "HF_HUB_CACHE": str(self.hf_home / "hub"),
            "HF_HUB_OFFLINE": "1",
        }
        argv = [sys.executable, "-c", _START, json.dumps(self.plugins), *words]
        return subprocess.run(argv, env=env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)

    def ok(self, *words: str, stdin: str = "") -> str:
        """The output of a run that must succeed."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def last_log(self) -> dict:
        """The latest entry of `llm logs`."""
        return json.loads(self.ok("logs", "-n", "1", "--json"))[0]
