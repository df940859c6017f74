"""Makes the model files that a comparison needs, once, in a cache folder: MLX folders and llama.cpp's quants.

Everything comes from the packaged GGUF file, so all engines compute with the same weights; "bf16" is that file
dequantized. Knows nothing of measurements. A file that is there is taken as it is.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .process import MeasureError

__all__ = ["FORMATS", "Files", "default_cache", "prepare"]

FORMATS = ("4bit", "8bit", "bf16", "gguf")
_QUANTS = {"4bit": ("Q4_0",), "8bit": ("Q8_0",), "bf16": ("BF16",), "gguf": ()}
_Say = Callable[[str], object]


@dataclass(frozen=True)
class Files:
    """Model paths of one format: ours, mlx-lm's (None without a peer), and llama.cpp's by name of the quant."""

    ours: str
    peer: str | None
    llama: dict[str, str]


def default_cache() -> Path:
    """`benchmarks` in this package's cache folder."""
    from mlx_lm.hub.packaged import cache_root

    return cache_root() / "benchmarks"


def _call(argv: list[str], what: str) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no message"]
        raise MeasureError(f"{what} failed: {lines[-1][:300]}")


def _folder(gguf: Path, cache: Path, name: str, options: list[str], say: _Say) -> str:
    target = cache / f"{gguf.stem}-{name}"
    if not target.exists():
        say(f"Writing {target}")
        argv = [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(gguf), "--mlx-path", str(target)]
        _call([*argv, *options], "mlx_lm.convert")
    return str(target)


def _quant(gguf: Path, cache: Path, quant: str, tool: str, say: _Say) -> str:
    target = cache / f"{gguf.stem}-{quant}.gguf"
    if not target.exists():
        say(f"Writing {target}")
        partial = target.with_suffix(".partial")
        _call([tool, "--allow-requantize", str(gguf), str(partial), quant], "llama-quantize")
        partial.rename(target)
    return str(target)


def prepare(
    gguf: Path, form: str, cache: Path, *, peer: bool, peer_dtype: str, llama: bool, quantize: str | None, say: _Say
) -> Files:
    """The files of one format, made where they are missing.

    Args:
        gguf: the packaged model.
        form: one of FORMATS. "4bit" and "8bit" are folders as `mlx_lm.convert -q` writes them by default, for us and
            mlx-lm; "gguf" is the packaged file itself, for us and llama.cpp.
        peer_dtype: of the folders' scales.
        quantize: llama-quantize; without it llama.cpp gets the packaged file only.

    Raises:
        MeasureError: a converter failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    theirs: str | None = None
    if form == "gguf":
        ours = str(gguf)
    elif form == "bf16":
        ours = theirs = _folder(gguf, cache, form, ["--dequantize", "--dtype", "bfloat16"], say)
    else:
        bits = form.removesuffix("bit")
        options = ["-q", "--q-group-size", "64", "--q-bits", bits, "--dtype", peer_dtype]
        ours = theirs = _folder(gguf, cache, f"{form}-g64-{peer_dtype}", options, say)
    quants = {"as packaged": str(gguf)} if llama and form in ("4bit", "gguf") else {}
    if llama and quantize:
        quants |= {q: _quant(gguf, cache, q, quantize, say) for q in _QUANTS[form]}
    return Files(ours, theirs if peer else None, quants)
