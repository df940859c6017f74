"""`mlx_lm.perplexity` and `mlx_lm.benchmark` on a tiny model."""

import json
from pathlib import Path

import pytest

from mlx_lm.cli import benchmark, perplexity

Capture = pytest.CaptureFixture[str]


def test_perplexity(tiny: str, tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "data.txt"
    data.write_text("the quick brown fox and numbers 0 1 2 3 " * 20)
    base = ["--model", tiny, "--data-path", str(data), "--sequence-length", "32", "--batch-size", "4"]
    assert perplexity.main([*base, "--num-samples", "-1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Perplexity: ") and "±" in captured.out and "tokens/s" in captured.err
    assert perplexity.main([*base, "--num-samples", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["windows"], found["tokens"]) == (3, 93) and found["perplexity"] > 1
    assert perplexity.main(["--model", tiny, "--data-path", "/no/such/file.txt"]) == 1
    assert "--data-path FILE" in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["1", "3"])
def test_benchmark(tiny: str, batch: str, capsys: Capture) -> None:
    base = ["--model", tiny, "-p", "12", "-g", "5", "-n", "2", "-b", batch, "--prefill-step-size", "8"]
    assert benchmark.main(base) == 0
    captured = capsys.readouterr()
    assert captured.out.count("Trial") == 2 and "generation_tps: median" in captured.out
    assert "MLX" in captured.err or "native" in captured.err
    assert benchmark.main([*base, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["batch_size"] == int(batch) and len(found["trials"]) == 2 and found["kernels"]
    low, middle, high = (found["generation_tps"][k] for k in ("min", "median", "max"))
    assert 0 < low <= middle <= high


def test_benchmark_refuses(tiny: str, capsys: Capture) -> None:
    for argv, word in (
        (["--pipeline"], "--pipeline"),
        (["-qa"], "--quantize-activations"),
        (["-p", "4000", "-g", "1000"], "5,000"),
        (["--delay", "-1"], "--delay"),
    ):
        assert benchmark.main(["--model", tiny, *argv]) == 1
        assert word in capsys.readouterr().err
