"""The benchmark command: options, engines, rounds, failures, and the commands it runs (scripted here, no models)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import __main__ as command
from benchmarks import engines, process
from benchmarks.engines import Engine, LlamaCpp, MlxLm, Ours, Sample, Sizes
from benchmarks.prepare import Files
from benchmarks.process import Finished, MeasureError


def _options(*argv: str) -> Any:
    return command.parser().parse_args(argv)


def test_defaults() -> None:
    options = _options()
    assert (options.model, options.rounds, options.threads) == ("smollm2", 3, 2)
    assert options.only == command.ONLY and options.formats == ("4bit", "bf16")


def test_lists() -> None:
    assert _options("--only", "rss, decode,rss").only == ("rss", "decode")


@pytest.mark.parametrize(
    "argv", [("--only", "speed"), ("--only", ","), ("--formats", "3bit"), ("--rounds", "0"), ("--model", "gpt2")]
)
def test_wrong_values_are_refused(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _options(*argv)
    assert stopped.value.code == 2 and argv[0] in capsys.readouterr().err


def test_engines_of_a_format(tmp_path: Path) -> None:
    bench = tmp_path / "llama-bench"
    files = Files("m.gguf", "folder", {"as packaged": "m.gguf", "Q4_0": "q.gguf"})
    found = command.engines("4bit", files, peer_python="py", llama_bench=str(bench))
    assert [e.label for e in found] == [
        "ours, exact", "ours, int8", "mlx-lm 0.32.2", "llama.cpp as packaged", "llama.cpp Q4_0",
    ]  # fmt: skip
    assert "batch8" in found[2].measures() and "batch8" not in found[3].measures()
    bench.with_name("llama-batched-bench").touch()
    found = command.engines("bf16", files, peer_python=None, llama_bench=str(bench))
    assert [e.family for e in found] == ["ours", "ours", "llama.cpp", "llama.cpp"]
    assert "batch8" in found[1].measures()


@dataclass(frozen=True)
class Scripted(Engine):
    """Gives its values in turn and notes that it was asked."""

    mode: str = ""
    values: list[float] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def measure(self, what: Any, sizes: Sizes) -> Sample:
        self.asked.append(f"{self.label} {what}")
        if not self.values:
            raise MeasureError("broken")
        about = {"kernels": "k", "weight_bytes": 10**9, "reads": [38.0, 40.0, 41.0] if what == "decode" else []}
        return Sample(self.values.pop(0), 1000, about)


def test_rounds_are_interleaved_and_failures_kept() -> None:
    asked: list[str] = []
    ours = Scripted("ours, exact", "m", "ours", mode="exact", values=[20.0, 30.0], asked=asked)
    peer = Scripted("mlx-lm 0.32.2", "m", "mlx-lm", asked=asked)
    plan: dict[str, list[Engine]] = {"4bit": [ours, peer]}
    found = command.collect(_options("--rounds", "2", "--only", "decode,rss"), plan, Sizes())
    assert asked == ["ours, exact decode", "mlx-lm 0.32.2 decode", "ours, exact decode"]
    assert found.rows["4bit", "decode", "ours, exact"].samples == [20.0, 30.0]
    assert found.rows["4bit", "rss", "ours, exact"].samples == [1000, 1000]
    assert found.rows["4bit", "decode", "mlx-lm 0.32.2"].failure == "broken"
    assert found.kernels == {"exact": "k"}
    assert command.bandwidth_lines(found) == [
        "4bit decode, ours, exact: 1000 MB of weights a token, 25.0 GB/s, 62% of what reading memory gave between the "
        "repeats: 40.0 (38.0-41.0).",
    ]


def test_what_is_missing_is_said() -> None:
    lines = "\n".join(command.remarks(_options(), command.Found()))
    assert "mlx-lm was not measured: give --peer-python" in lines
    assert "llama.cpp was not measured: give --llama-bench" in lines


def _spy(monkeypatch: pytest.MonkeyPatch, output: str) -> list[tuple[list[str], dict[str, Any]]]:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def run(argv: Any, **options: Any) -> Finished:
        calls.append((list(argv), options))
        return Finished(output, 2.0, 1.5, 77)

    monkeypatch.setattr(engines, "run", run)
    return calls


def test_our_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _spy(monkeypatch, 'noise\n{"value": 12, "kernels": "k"}\n')
    ours = Ours("ours", "m", mode="int8")
    assert ours.measure("decode", Sizes(threads=3)) == Sample(12.0, 77, {"kernels": "k"})
    argv, options = calls[0]
    assert options["env"] == {"MLX_LM_ACTIVATIONS": "int8", "MLX_LM_NUM_THREADS": "3"}
    assert argv[2:] == ["decode", "--depth=512", "--tokens=128", "--repeats=5", "--model", "m"]
    assert ours.measure("ttft", Sizes()).value == 1.5
    counts = calls[1][1]["counts"]
    assert not counts(b"=====\n") and counts(b"=====\nHi") and counts(b"H")


def test_mlx_lm_never_sees_our_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _spy(monkeypatch, '{"value": 1.0}')
    peer = MlxLm("mlx-lm", "m", python="py")
    for what in peer.measures():
        peer.measure(what, Sizes())
    assert all(argv[0] == "py" and options["env"] == {"PYTHONPATH": None} for argv, options in calls)


def test_mlx_lm_decodes_after_filled_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _spy(monkeypatch, '{"value": 1.0}')
    peer = MlxLm("mlx-lm", "m", python="py")
    for what in ("decode", "batch8"):
        peer.measure(what, Sizes(peer_tokens=4))
    decode, batch = (argv[2:] for argv, _ in calls)
    assert decode == ["decode", "--depth=512", "--tokens=4", "--fill", "--model", "m"]
    assert batch == ["batch", "--depth=512", "--tokens=4", "--fill", "--size=8", "--model", "m"]
    assert "random keys" in peer.note("batch8", Sizes())


def test_llama_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _spy(monkeypatch, json.dumps({"avg_ts": 5.0, "speed_tg": 9.0}) + "\n")
    llama = LlamaCpp("llama", "m.gguf", bench="lb", batched="lbb")
    assert [llama.measure(what, Sizes()).value for what in llama.measures()] == [5.0, 5.0, 9.0, 2.0]
    decode, prefill, batch, _ = (" ".join(argv) for argv, _ in calls)
    assert "-n 128 -d 512" in decode and "-p 512 -n 0" in prefill
    assert batch.startswith("lbb ") and "-npl 8" in batch and "-c 5120" in batch


def test_output_without_a_result_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _spy(monkeypatch, "nothing\n")
    with pytest.raises(MeasureError, match="no result"):
        Ours("ours", "m").measure("decode", Sizes())


def test_processes() -> None:
    code = "import os, sys, time; print('=', flush=True); time.sleep(.1); print(os.environ.get('GONE'), flush=True)"
    done = process.run([sys.executable, "-c", code], env={"GONE": None}, timeout=30, counts=lambda out: b"N" in out)
    assert done.stdout == "=\nNone\n" and done.first is not None and 0.1 < done.first <= done.seconds
    assert 1e6 < done.rss < 1e9
    with pytest.raises(MeasureError, match="exit status 3: why"):
        process.run([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"], timeout=30)
    with pytest.raises(MeasureError, match="more than 0 s"):
        process.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)


def test_an_uncached_model_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_LM_CACHE", str(tmp_path))
    assert command.main([]) == 1
    assert "smollm2 is not cached" in capsys.readouterr().err
