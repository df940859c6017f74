"""docs/kernels.md says which operations are native nodes: the graphs say so too."""

import io
import re
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_lm import kernels
from mlx_lm.kernels import KVView, native

pytestmark = pytest.mark.skipif(native.extension() is None, reason="the native kernels are not installed")
DOCUMENT = Path(__file__).parents[2] / "docs/kernels.md"

_W = mx.ones((16, 64))
_PACKED = mx.quantize(_W, group_size=32, bits=4)
_X, _HEADS, _STEPS = mx.ones((2, 64)), mx.ones((1, 2, 3, 16)), mx.ones((1, 3, 2, 16))
_FLAT, _SCALARS = mx.ones((1, 3, 8)), mx.ones((1, 3, 2))
_VIEWS = (KVView(_HEADS, _HEADS),)
_EXPERTS = [a[None] for a in _PACKED]
_INDICES = mx.zeros((2, 1), mx.uint32)

CALLS = {
    "matmul": lambda: kernels.matmul(_X, _W),
    "quantized_matmul": lambda: kernels.quantized_matmul(_X, *_PACKED, group_size=32),
    "gather_matmul": lambda: kernels.gather_matmul(_X[:, None, None], _W[None], _INDICES),
    "gather_quantized_matmul": lambda: kernels.gather_quantized_matmul(
        _X[:, None, None], *_EXPERTS, _INDICES, group_size=32, bits=4
    ),
    "attention": lambda: kernels.attention(_HEADS, _VIEWS, scale=1.0),
    "latent_attention": lambda: kernels.latent_attention(
        _HEADS, _HEADS, (KVView(_HEADS[:, :1], _HEADS[:, :1]),), scale=1.0
    ),
    "rms_norm": lambda: kernels.rms_norm(_X, None, 1e-5),
    "layer_norm": lambda: kernels.layer_norm(_X, None, None, 1e-5),
    "rope": lambda: kernels.rope(_HEADS, 16, base=100.0),
    "activation": lambda: kernels.activation(_X, "silu"),
    "gated_activation": lambda: kernels.gated_activation(_X, _X, "silu"),
    "gated_delta": lambda: kernels.gated_delta(_STEPS, _STEPS, _STEPS, _SCALARS, _SCALARS, None)[0],
    "selective_scan": lambda: kernels.selective_scan(_STEPS, _SCALARS, -mx.ones((2,)), _STEPS, _STEPS, None, None)[0],
    "diagonal_scan": lambda: kernels.diagonal_scan(
        _FLAT, _FLAT, -mx.ones((8, 4)), _FLAT[..., :4], _FLAT[..., :4], None, None
    )[0],
    "causal_conv": lambda: kernels.causal_conv(_FLAT, mx.ones((8, 4, 1)), None, None)[0],
    "embedding_rows": lambda: kernels.embedding_rows(_INDICES, *_PACKED, group_size=32, bits=4),
    "argmax": lambda: kernels.argmax(_X),
    "top_k": lambda: kernels.top_k(_X, 3)[0],
    "top_p": lambda: kernels.top_p(_X, 0.5),
    "draw": lambda: kernels.draw(_X, mx.array([0.1, 0.6])),
    "log_softmax": lambda: kernels.log_softmax(_X),
    "linear_recurrence": lambda: kernels.linear_recurrence(-_FLAT, _FLAT, None)[0],
}


def _nodes(*arrays: mx.array) -> set[str]:
    """Names of this package's nodes in the graph of `arrays`."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return {name for name in re.findall(r'label ="(\w+)"', text.getvalue()) if name.startswith("MlxLm")}


def _table(heading: str) -> list[list[str]]:
    section = DOCUMENT.read_text().split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def test_the_table_names_every_operation_and_its_node():
    table = {row[0]: row[1] for row in _table("What runs natively")}
    assert table == {name: " ".join(_nodes(call())) for name, call in CALLS.items() if name != "linear_recurrence"}
    public = {
        name for name in kernels.__all__ if callable(getattr(kernels, name)) and name.islower() and name != "visible"
    }
    assert set(CALLS) == public


def test_what_is_left_to_mlx_is():
    left = [row[0] for row in _table("What is left to MLX on a CPU, and why")]
    assert "linear_recurrence" in left and not _nodes(CALLS["linear_recurrence"]())
    assert "attention` with `mask" in left
    mask = mx.ones((3, 3), mx.bool_)
    assert not _nodes(kernels.attention(_HEADS, _VIEWS, scale=1.0, mask=mask))


def test_every_instruction_set_is_named():
    assert set(native.extension().supported_isas()) <= {row[0] for row in _table("Instruction sets")}


def test_every_packed_width_and_every_number_of_rows_is_native():
    formats = [("affine", g, b) for g in (32, 64, 128) for b in (2, 3, 4, 5, 6, 8)]
    for mode, group, bits in [*formats, ("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]:
        w, scales, *biases = mx.quantize(mx.ones((2, 16, 128)), group_size=group, bits=bits, mode=mode)
        rest = biases[0] if biases else None
        for dtype in (mx.float32, mx.bfloat16, mx.float16):
            for rows in (1, 4, 40):
                x = mx.ones((rows, 128), dtype)
                options = {"group_size": group, "bits": bits, "mode": mode}
                one = kernels.quantized_matmul(x, w[0], scales[0], None if rest is None else rest[0], **options)
                some = kernels.gather_quantized_matmul(
                    x[:, None, None], w, scales, rest, mx.zeros((rows, 1), mx.uint32), **options
                )
                assert _nodes(one) == _nodes(some) == {"MlxLmMatrixProduct"}
