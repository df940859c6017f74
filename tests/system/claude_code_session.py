"""Runs Claude Code against a server in this process, and prints what happened as JSON.

Started by `test_claude_code.py` inside a network namespace that has nothing but loopback: whatever the client wants of
the outside fails there. `python claude_code_session.py SPEC` with SPEC a JSON object: `binary`, `folder` (an empty
one), `arguments` (of the client), and either `script` (a name of SCRIPTS) or `settings` (of the real server).
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

import uvicorn
from fakes import FakeService, answer

from mlx_lm.errors import ContextLengthError
from mlx_lm.server.app import create_app
from mlx_lm.server.options import ServerSettings
from mlx_lm.server.service import Service
from mlx_lm.server.work import Finished, Reasoning, Started, Text, ToolArguments, ToolEnd, ToolStart, Usage

COMMAND = json.dumps({"command": "echo marker-$((40+2))", "description": "Echo"})
TOOL_USE = [
    Started(100, 0),
    Reasoning("I should look."),
    Text("I look."),
    ToolStart(0, "call_1", "Bash"),
    ToolArguments(0, COMMAND[:10]),
    ToolArguments(0, COMMAND[10:]),
    ToolEnd(0),
    Finished("tool_calls", Usage(100, 0, 20, 5)),
]
SCRIPTS: dict[str, list[Any]] = {
    "tool": [TOOL_USE, answer("All is done.", prompt_tokens=120)],
    "too long": [ContextLengthError(131_072, 32_768)],
    "broken": [[Started(10, 0), Text("Half an ans"), RuntimeError("lost")], answer("All is done.")],
}


class Recorder:
    """A service that notes what it is asked, and the counts of what it answers."""

    def __init__(self, service: Any):
        self._service = service
        self.works: list[Any] = []
        self.usages: list[Usage] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    async def open(self, work: Any) -> Any:
        self.works.append(work)
        return _Noted(await self._service.open(work), self.usages)


class _Noted:
    def __init__(self, job: Any, usages: list[Usage]):
        self._job = job
        self._usages = usages

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    async def __aiter__(self) -> Any:
        async for event in self._job:
            if isinstance(event, Finished):
                self._usages.append(event.usage)
            yield event

    async def __aenter__(self) -> Any:
        await self._job.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._job.__aexit__(*error)


def serve(service: Service, settings: ServerSettings, ports: list[int]) -> tuple[uvicorn.Server, threading.Thread]:
    """A server that listens on `ports[0]`, in a thread of its own."""
    app = create_app(settings, service)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))

    async def run() -> None:
        if hasattr(service, "start"):
            await service.start()  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ports.append(server.servers[0].sockets[0].getsockname()[1])
        started.set()
        await task
        if hasattr(service, "close"):
            await service.close()  # type: ignore[attr-defined]

    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(120), "the server did not start"
    return server, thread


def run(command: list[str], folder: Path, environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """One run of the client; its code is None when it had to be ended."""
    begin = time.monotonic()
    how: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(command, cwd=folder, env=environment, **how) as client:
        try:
            out, error = client.communicate(timeout=seconds)
            code: int | None = client.returncode
        except subprocess.TimeoutExpired:
            client.kill()
            out, error = client.communicate()
            code = None
    return {"code": code, "out": out, "error": error, "seconds": time.monotonic() - begin}


def main() -> None:
    spec = json.loads(sys.argv[1])
    settings = ServerSettings(**spec.get("settings", {}))
    if "script" in spec:
        service = Recorder(FakeService(*SCRIPTS[spec["script"]]))
    else:
        from mlx_lm.server.core import ModelService

        service = Recorder(ModelService(settings))
    ports: list[int] = []
    server, thread = serve(service, settings, ports)  # type: ignore[arg-type]
    folder = Path(spec["folder"])
    (folder / "home").mkdir()
    (folder / "work").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{ports[0]}",
        "ANTHROPIC_API_KEY": "local",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "100000",
        "API_TIMEOUT_MS": "600000",
        **spec.get("environment", {}),
    }
    runs = []
    for arguments in spec["runs"]:
        runs.append(run([spec["binary"], *arguments], folder / "work", environment, spec.get("seconds", 60)))
    server.should_exit = True
    thread.join(30)
    works = [{"messages": work.messages, "tools": [t.name for t in work.tools]} for work in service.works]
    print(json.dumps({"runs": runs, "works": works, "usages": [vars(usage) for usage in service.usages]}))


if __name__ == "__main__":
    main()
