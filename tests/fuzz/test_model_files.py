"""1,000 random corruptions each of a small safetensors and a small GGUF file: a typed error or success, no signal.

The loads run in one subprocess per format, so that a crash of the process is seen as one.
"""

import importlib
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))  # the writer of small GGUF files is kept with their tests
gguf_files = importlib.import_module("gguf_files")

CASES = 1_000
LOADER = """
import sys
from pathlib import Path
import mlx.core as mx
from mlx_lm.errors import MLXLMError
from mlx_lm.hub import load_gguf, load_safetensors

outcomes = {"loaded": 0, "refused": 0}
for line in sys.stdin:
    path = line.strip()
    print("trying", path, flush=True)
    try:
        arrays = load_gguf(path)[1] if path.endswith(".gguf") else load_safetensors(path)
        mx.eval(arrays)
        outcomes["loaded"] += 1
    except MLXLMError as error:
        assert str(error)
        outcomes["refused"] += 1
print("outcomes", outcomes["loaded"], outcomes["refused"])
"""


def corrupt(raw: bytes, header: int, rng: np.random.Generator) -> bytes:
    """One of: flipped bits, a random integer, a cut, an insertion, a repeated slice; mostly within the header."""
    data = bytearray(raw)
    span = header if rng.random() < 0.85 else len(raw)
    at = int(rng.integers(0, span))
    match int(rng.integers(0, 6)):
        case 0:
            for _ in range(int(rng.integers(1, 9))):
                data[int(rng.integers(0, span))] ^= 1 << int(rng.integers(0, 8))
        case 1:
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice([0, 1, 127, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]))
            data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
        case 2:
            del data[int(rng.integers(0, len(data))) :]
        case 3:
            data[at:at] = rng.bytes(int(rng.integers(1, 40)))
        case 4:
            data[at : at + 12] = data[at + 16 : at + 40]
        case _:
            data[at : at + 1] = bytes([int(rng.choice(list(b'0123456789-"{}[],:eE.')))])
    return bytes(data)


def original(kind: str, folder: Path) -> tuple[bytes, int]:
    """(a valid file, bytes of its header)."""
    if kind == "gguf":
        raw = gguf_files.gguf_bytes(gguf_files.base_metadata(), gguf_files.llama_tensors())
        return raw, raw.index(b"blk.0.ffn_down.weight") + 64
    arrays = {
        f"layers.{i}.weight": mx.ones((4, 8), dtype) for i, dtype in enumerate((mx.float32, mx.bfloat16, mx.uint32))
    }
    mx.save_safetensors(str(folder / "original.safetensors"), arrays, {"format": "mlx"})
    raw = (folder / "original.safetensors").read_bytes()
    return raw, 8 + int.from_bytes(raw[:8], "little")


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_corrupted_files(tmp_path: Path, kind: str):
    rng = np.random.default_rng(20)
    raw, header = original(kind, tmp_path)
    paths = []
    for index in range(CASES):
        paths.append(tmp_path / f"{index:04}.{kind}")
        paths[-1].write_bytes(corrupt(raw, header, rng))
    command = [sys.executable, "-W", "error", "-c", LOADER]
    ran = subprocess.run(command, input="\n".join(map(str, paths)), capture_output=True, text=True, check=False)
    last = ran.stdout.strip().splitlines()[-1] if ran.stdout else "nothing"
    assert ran.returncode == 0, f"exit {ran.returncode} after {last}\n{ran.stderr[-2000:]}"
    loaded, refused = map(int, last.split()[1:])
    assert loaded + refused == CASES
    assert refused > CASES // 4
