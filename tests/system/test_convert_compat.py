"""Models written by mlx_lm.convert load in mlx-lm 0.32.2 with equal logits, and mlx-lm's load here.

Needs a Python that has mlx-lm 0.32.2, named by MLX_LM_PEER_PYTHON; without it the tests are skipped. mlx-lm computes
in a process of its own and hands back a safetensors file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm import convert, load
from mlx_lm.kernels import native

PEER = os.environ.get("MLX_LM_PEER_PYTHON", "")
IDS = [504, 3575, 282, 4649, 314, 7042, 30, 378, 216, 33, 42, 25]
TOLERANCE = 1e-3

pytestmark = [
    pytest.mark.real_model("smollm2"),
    pytest.mark.slow,
    pytest.mark.skipif(not PEER, reason="MLX_LM_PEER_PYTHON names no Python with mlx-lm 0.32.2"),
]

_LOGITS = """
import json, sys
import mlx.core as mx
import mlx_lm
assert mlx_lm.__version__ == "0.32.2", mlx_lm.__version__
model = mlx_lm.load(sys.argv[1])[0]
logits = model(mx.array([json.loads(sys.argv[2])]))[0].astype(mx.float32)
mx.save_safetensors(sys.argv[3], {"logits": logits})
"""


def _peer(*argv: str) -> None:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([PEER, *argv], env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def _peer_logits(folder: Path, scratch: Path) -> np.ndarray:
    target = scratch / "peer.safetensors"
    _peer("-c", _LOGITS, str(folder), json.dumps(IDS), str(target))
    loaded = mx.load(str(target))
    assert isinstance(loaded, dict)
    return np.array(loaded["logits"])


def _our_logits(folder: Path) -> np.ndarray:
    before = native.activations()
    native.set_activations("exact")
    try:
        return np.array(load(folder)[0](mx.array([IDS]))[0].astype(mx.float32))
    finally:
        native.set_activations(before)


def _compare(folder: Path, scratch: Path) -> None:
    ours, theirs = _our_logits(folder), _peer_logits(folder, scratch)
    difference = float(np.abs(ours - theirs).max())
    print(f"{folder.name}: largest difference {difference:.2e}, logits to {np.abs(theirs).max():.1f}", file=sys.stderr)
    assert difference < TOLERANCE
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


@pytest.mark.parametrize("group_size", [64, 32])
def test_ours_loads_in_mlx_lm(group_size: int, tmp_path: Path) -> None:
    folder = tmp_path / f"ours-{group_size}"
    convert("smollm2", folder, quantize=True, q_bits=4, q_group_size=group_size, dtype="float32")
    _compare(folder, tmp_path)


def test_mlx_lms_loads_in_ours(tmp_path: Path) -> None:
    dense, packed = tmp_path / "dense", tmp_path / "theirs"
    convert("smollm2", dense, dequantize=True, dtype="float32")
    options = ["-q", "--q-bits", "4", "--dtype", "float32"]
    _peer("-m", "mlx_lm", "convert", "--hf-path", str(dense), "--mlx-path", str(packed), *options)
    _compare(packed, tmp_path)
