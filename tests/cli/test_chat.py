"""`mlx_lm.chat` over scripted lines, signals and a terminal."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_lm.cli.chat import main
from mlx_lm.cli.chat_input import COMMANDS, Command, Reader, parse

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Callable[..., tuple[str, str]]:
    """`script(lines, *argv)` -> (stdout, stderr) of a chat over these lines."""

    def play(lines: str, *argv: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        assert main(list(argv)) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return play


def test_answers_to_stdout_the_rest_to_stderr(tiny: str, script: Callable[..., tuple[str, str]]) -> None:
    out, err = script("the fox\nnumbers\nq\nnever read\n", "--model", tiny, "-m", "6", "--verbose", "1")
    assert len(out.splitlines()) == 2
    assert err.count("--max-tokens 6") == 2
    assert " 0 of them reused" in err and err.count("reused") == 2
    assert script("", "--model", tiny)[0] == ""


def test_retry_undo_and_reset(tiny: str, script: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    talk = tmp_path / "talk.json"
    out, err = script(
        f"/system Be short.\nthe fox\n/retry\nnumbers\n/undo\n/save {talk}\nr\n/load {talk}\n/retry\n/reset\n/undo\n",
        *("--model", tiny, "-m", "6"),
    )
    first, again, _, loaded = out.splitlines()
    assert first == again == loaded
    assert "Taken back." in err and "Loaded 2 messages." in err and "nothing to take back" in err
    saved = json.loads(talk.read_text())
    assert saved["system"] == "Be short." and [m["content"] for m in saved["messages"]] == ["the fox", first]


def test_errors_leave_the_conversation(tiny: str, script: Callable[..., tuple[str, str]]) -> None:
    out, err = script("/save\n/nonsense\n/load /no/such/file\n/retry\nh\nfox\n", "--model", tiny, "-m", "3")
    assert len(out.splitlines()) == 1
    for words in ("/save needs", "/nonsense is no command", "/no/such/file", "no message to answer", "/undo"):
        assert words in err


def test_model_without_template(make_model: Callable[..., str], script: Callable[..., tuple[str, str]]) -> None:
    out, err = script("fox\n", "--model", make_model(template=False), "-m", "3")
    assert out and "no chat template" in err


def test_refused(tiny: str, capsys: Capture) -> None:
    assert main(["--model", "never-loaded", "--pipeline"]) == 1
    assert "--pipeline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("one\n", "one"),
        ("one\\\ntwo\\\nthree\nfour\n", "one\ntwo\nthree"),
        ("one\\\n", "one"),
        ('"""one\ntwo"""\nfour\n', "one\ntwo"),
        ('"""\none\n\n  two\n"""\n', "one\n\n  two"),
        ('"""one"""\n', "one"),
        ('"""one\n', "one"),
    ],
)
def test_messages_of_several_lines(typed: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert Reader().read() == message


def test_commands_are_told_from_messages() -> None:
    assert parse("q") == parse("/quit") == Command("quit", "")
    assert parse("r") == Command("reset", "") and parse("h") == Command("help", "")
    assert parse("/save my file.json ") == Command("save", "my file.json")
    assert parse("//etc/hosts") == "/etc/hosts"
    assert parse("queue") == "queue" and parse(" /x") == " /x"
    assert "quit" in COMMANDS


class _Chat:
    """A chat in a process of its own; `expect` reads on until the wanted bytes came, and keeps the rest."""

    def __init__(self, *argv: str, wrap: tuple[str, ...] = ()):
        command, pipe = [*wrap, sys.executable, "-m", "mlx_lm.chat", *argv], subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=os.environ | {"TERM": "dumb"}
        )
        self._rest: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._watchdog = threading.Timer(30, self.process.kill)

    def __enter__(self) -> "_Chat":
        self._watchdog.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._watchdog.cancel()
        self._watchdog.join()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def type(self, keys: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(keys)

    def type_until_it_ends(self, key: bytes) -> None:
        """Presses a key again and again: readline misses a signal between showing its prompt and waiting for keys."""
        while self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self.type(key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)

    def expect(self, wanted: bytes, stream: str = "stdout") -> None:
        while wanted not in self._rest[stream]:
            piece = getattr(self.process, stream).read(4096)
            assert piece, f"ended before {wanted!r}: {self._rest[stream][-500:]!r}"
            self._rest[stream] += piece
        self._rest[stream] = self._rest[stream].partition(wanted)[2]

    def expect_something(self) -> None:
        """At least one more byte of output."""
        if not self._rest["stdout"]:
            self._rest["stdout"] += self.process.stdout.read(1)  # type: ignore[union-attr]

    def end(self) -> int:
        """Waits for the end; the status."""
        assert self.process.stdin and self.process.stdout and self.process.stderr
        out = self._rest["stdout"] + self.process.stdout.read()
        assert b"Traceback" not in out + self._rest["stderr"] + self.process.stderr.read()
        return self.process.wait()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupt_stops_the_answer_only(tiny: str, tmp_path: Path) -> None:
    talk = tmp_path / "talk.json"
    with _Chat("--model", tiny) as running:
        running.type(b"the fox\n")
        running.expect_something()
        running.process.send_signal(signal.SIGINT)
        running.expect(b"[stopped]", "stderr")
        running.type(f"/save {talk}\n/quit\n".encode())
        assert running.end() == 0
    user, answer = json.loads(talk.read_text())["messages"]
    assert user["content"] == "the fox" and len(answer["content"]) > 0


@pytest.mark.skipif(os.name != "posix", reason="terminals")
@pytest.mark.parametrize("leave", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_in_a_terminal(tiny: str, leave: bytes) -> None:
    terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    with _Chat("--model", tiny, wrap=(sys.executable, "-c", terminal)) as running:
        running.expect(b">> ")
        running.type(b"the \\\n")
        running.expect(b".. ")
        running.type(b"fox\n")
        running.expect(b"fox\r\n")
        running.expect_something()  # the answer has begun
        running.type(b"\x03")
        running.expect(b"[stopped]")
        running.expect(b">> ")
        running.type_until_it_ends(leave)
        assert running.end() == 0
