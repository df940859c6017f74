"""Load a GGUF model: config, weights under Hugging Face names, and MLX's quantization config.

Contract: `load_gguf` joins the header reader (gguf), the block formats (gguf_blocks), the names (gguf_names) and the
metadata rules (gguf_config). Quantized matmul and embedding weights become `<path>.weight/.scales/.biases` in MLX's
layout without being dequantized; everything else becomes a dense array. It knows nothing of model classes.
"""

import math
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlx_lm.errors import ModelFileError, UnsupportedError
from mlx_lm.hub import gguf, gguf_config, gguf_names

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_lm.hub.gguf_blocks import Packed

__all__ = ["load_gguf", "load_gguf_config", "read_parts"]

_DENSE = MappingProxyType({"F32": "<f4", "F16": "<f2", "BF16": "<u2"})
_MAX_ROPE_TABLE = 1 << 16


def read_parts(path: str | Path | gguf.GGUFFile) -> list[gguf.GGUFFile]:
    """The verified headers of a model's parts (one, unless the file is split). The first holds the metadata."""
    first = path if isinstance(path, gguf.GGUFFile) else gguf.read(path)
    paths = gguf.split_paths(first.path, first.metadata)
    return [first if part == first.path else gguf.read(part) for part in paths]


def _all_tensors(parts: list[gguf.GGUFFile]) -> dict[str, gguf.GGUFTensor]:
    tensors: dict[str, gguf.GGUFTensor] = {}
    for part in parts:
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise ModelFileError(f"{part.path}: tensor {min(twice)!r} is also in another part of this model.")
        tensors.update(part.tensors)
    return tensors


def load_gguf_config(path: str | Path | gguf.GGUFFile) -> dict[str, Any]:
    """The Hugging Face style config of a GGUF model, from its header and rope tables alone.

    Raises what `load_gguf` raises, without reading any weight.
    """
    return _config_of(read_parts(path))


def _config_of(parts: list[gguf.GGUFFile]) -> dict[str, Any]:
    tensors = _all_tensors(parts)
    tables = {}
    for name in ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"):
        if name in tensors:
            if math.prod(tensors[name].shape) > _MAX_ROPE_TABLE or tensors[name].type.name != "F32":
                raise ModelFileError(f"{tensors[name].path}: tensor {name!r} is no rope table.")
            tables[name] = _dense_numpy(tensors[name]).reshape(-1).tolist()
    try:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return gguf_config.build_config(parts[0].metadata, shapes, tables)
    except (ModelFileError, UnsupportedError, ValueError) as error:
        raise type(error)(f"{parts[0].path}: {error}") from error


def _raw(tensor: gguf.GGUFTensor, maps: dict[Path, Any] | None = None) -> Any:
    """A tensor's bytes; `maps` keeps the mapped files, because mapping one takes longer than a small tensor."""
    import numpy as np

    if maps is None:
        maps = {}
    if tensor.path not in maps:
        maps[tensor.path] = np.memmap(tensor.path, np.uint8, mode="r").view(np.ndarray)
    return maps[tensor.path][tensor.offset : tensor.offset + tensor.nbytes]


def _unsupported(tensor: gguf.GGUFTensor) -> UnsupportedError:
    return UnsupportedError(
        f"{tensor.path}: tensor {tensor.name!r} is stored as {tensor.type.name}, which has no MLX image. "
        "Use a file quantized as Q4_K_M, Q5_K_M, Q6_K, Q8_0, IQ4_XS, MXFP4 or F16."
    )


def _dense_numpy(tensor: gguf.GGUFTensor, maps: dict[Path, Any] | None = None) -> Any:
    """A tensor as numpy: float32 or float16 as stored, uint16 for BF16, float32 for every block format."""
    from mlx_lm.hub import gguf_blocks

    if tensor.type.name in _DENSE:
        return _raw(tensor, maps).view(_DENSE[tensor.type.name]).reshape(tensor.shape)
    if tensor.type.name not in gguf_blocks.FORMATS:
        raise _unsupported(tensor)
    return gguf_blocks.to_float32(_raw(tensor, maps), tensor.type.name, tensor.type.nbytes).reshape(tensor.shape)


def _dense(tensor: gguf.GGUFTensor, maps: dict[Path, Any] | None = None) -> "mx.array":
    import mlx.core as mx
    import numpy as np

    array = mx.array(np.ascontiguousarray(_dense_numpy(tensor, maps)))
    return array.view(mx.bfloat16) if tensor.type.name == "BF16" else array


def _unpermute_rows(array: "mx.array", heads: int, where: str) -> "mx.array":
    """Undo ggml's row order: pairs (i, i + half) of a head lie side by side there."""
    rows = array.shape[0]
    if rows % (2 * heads):
        raise ModelFileError(f"Tensor {where!r} has {rows} rows, which do not divide into {heads} heads.")
    return array.reshape(heads, rows // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


class _Loader:
    """Collects weights and quantization choices while it walks over the tensors of one model."""

    def __init__(self, config: dict[str, Any], architecture: str):
        self.config = config
        self.architecture = architecture
        self.weights: dict[str, mx.array] = {}
        self.chosen: dict[str, tuple[int, int, str] | None] = {}  # module path -> (group_size, bits, mode) or dense
        self.sizes: Counter[tuple[int, int, str]] = Counter()
        self.delta: dict[str, dict[str, gguf.GGUFTensor]] = {}
        self.scratch: Any = None
        self.maps: dict[Path, Any] = {}

    def put(self, name: str, array: "mx.array", tensor: gguf.GGUFTensor) -> None:
        if name in self.weights:
            raise ModelFileError(f"{tensor.path}: tensor {tensor.name!r} would be a second {name!r}.")
        self.weights[name] = array

    def add(self, tensor: gguf.GGUFTensor) -> None:
        rule = gguf_names.rule_for(self.architecture, tensor.name)
        if rule.transform == "drop":
            return
        if rule.transform in ("delta_qkv", "delta_gate"):
            self.delta.setdefault(rule.target, {})[rule.transform] = tensor
        elif rule.quantizable and len(tensor.shape) >= 2 and tensor.type.name not in _DENSE:
            self.put_packed(rule.target, self.pack(tensor, reuse=True), tensor, rule.transform)
        else:
            if rule.quantizable:
                self.chosen[rule.target.removesuffix(".weight")] = None
            self.put(rule.target, self.transform(_dense(tensor, self.maps), rule.transform, tensor), tensor)

    def pack(self, tensor: gguf.GGUFTensor, *, reuse: bool = False) -> "Packed":
        """With `reuse` the codes lie in a buffer that the next call overwrites."""
        import numpy as np

        from mlx_lm.hub import gguf_blocks

        kind = tensor.type
        if kind.name not in gguf_blocks.FORMATS:
            raise _unsupported(tensor)
        if not reuse:
            return gguf_blocks.to_quantized(_raw(tensor, self.maps), kind.name, kind.nbytes)
        need = gguf_blocks.packed_nbytes(kind.name, tensor.nbytes, kind.nbytes)
        if self.scratch is None or self.scratch.size < need:
            self.scratch = np.empty(need, np.uint8)
        return gguf_blocks.to_quantized(_raw(tensor, self.maps), kind.name, kind.nbytes, self.scratch)

    def put_packed(self, target: str, packed: "Packed", tensor: gguf.GGUFTensor, transform: str) -> None:
        import mlx.core as mx

        path, rows = target.removesuffix(".weight"), tensor.shape[:-1]
        named = {"weight": packed.weight.reshape(*rows, -1).view("<u4"), "scales": packed.scales.reshape(*rows, -1)}
        if packed.biases is not None:
            named["biases"] = packed.biases.reshape(*rows, -1)
        for suffix, array in named.items():
            self.put(f"{path}.{suffix}", self.transform(mx.array(array), transform, tensor), tensor)
        kind = (packed.group_size, packed.bits, packed.mode)
        self.chosen[path] = kind
        self.sizes[kind] += math.prod(tensor.shape)

    def transform(self, array: "mx.array", kind: str, tensor: gguf.GGUFTensor) -> "mx.array":
        import mlx.core as mx

        if kind in ("q_rows", "k_rows"):
            heads = self.config["num_attention_heads" if kind == "q_rows" else "num_key_value_heads"]
            return _unpermute_rows(array, heads, tensor.name)
        if kind == "minus_one":
            return array.astype(mx.float32) - 1
        if kind == "conv":
            if array.ndim != 2:
                raise ModelFileError(f"{tensor.path}: tensor {tensor.name!r} must have two dimensions.")
            return array[:, None, :]
        if kind == "log_of_minus":
            return mx.log(-array.astype(mx.float32)).reshape(-1)
        return array.reshape(-1) if kind == "flat" else array

    def join_delta(self) -> None:
        """Qwen3-Next: rows of qkv and z back into the order (key head, [q k v z])."""
        for target, halves in self.delta.items():
            if len(halves) != 2:
                raise ModelFileError(f"{target!r} needs both attn_qkv and attn_gate of its layer.")
            qkv, gate = halves["delta_qkv"], halves["delta_gate"]
            if qkv.type.name in _DENSE or gate.type.name in _DENSE:
                self.put(target, self.delta_rows(_dense(qkv), _dense(gate), qkv), qkv)
                self.chosen[target.removesuffix(".weight")] = None
                continue
            self.join_packed(target, qkv, gate)

    def join_packed(self, target: str, qkv: gguf.GGUFTensor, gate: gguf.GGUFTensor) -> None:
        import mlx.core as mx

        from mlx_lm.hub import gguf_blocks

        first, second = self.pack(qkv), self.pack(gate)
        if (first.bits, first.mode, first.scales.dtype) != (second.bits, second.mode, second.scales.dtype):
            if first.mode != "affine" or second.mode != "affine":
                raise _unsupported(gate)
            first, second = gguf_blocks.widen(first), gguf_blocks.widen(second)
        path = target.removesuffix(".weight")
        for field, suffix in (("weight", "weight"), ("scales", "scales"), ("biases", "biases")):
            upper, lower = getattr(first, field), getattr(second, field)
            if upper is None:
                continue
            if field == "weight":
                upper, lower = upper.view("<u4"), lower.view("<u4")
            upper, lower = upper.reshape(qkv.shape[0], -1), lower.reshape(gate.shape[0], -1)
            self.put(f"{path}.{suffix}", self.delta_rows(mx.array(upper), mx.array(lower), qkv), qkv)
        kind = (first.group_size, first.bits, first.mode)
        self.chosen[path] = kind
        self.sizes[kind] += math.prod(qkv.shape) + math.prod(gate.shape)

    def delta_rows(self, qkv: "mx.array", z: "mx.array", tensor: gguf.GGUFTensor) -> "mx.array":
        import mlx.core as mx

        key_heads = self.config["linear_num_key_heads"]
        keys = key_heads * self.config["linear_key_head_dim"]
        values = self.config["linear_num_value_heads"] * self.config["linear_value_head_dim"]
        if qkv.shape[0] != 2 * keys + values or z.shape[0] != values or qkv.shape[1:] != z.shape[1:]:
            raise ModelFileError(f"{tensor.path}: tensor {tensor.name!r} does not fit the head sizes of the metadata.")
        parts = [qkv[:keys], qkv[keys : 2 * keys], qkv[2 * keys :], z]
        joined = mx.concatenate([part.reshape(key_heads, -1, part.shape[-1]) for part in parts], axis=1)
        return joined.reshape(-1, qkv.shape[-1])

    def quantization(self) -> dict[str, Any]:
        """MLX's config form: the commonest choice as the default, every other module by its path."""
        if not self.sizes:
            return {}
        default = self.sizes.most_common(1)[0][0]
        result: dict[str, Any] = _spelled(default)
        for path, kind in self.chosen.items():
            if kind is None:
                result[path] = False
            elif kind != default:
                result[path] = _spelled(kind)
        return result


def _spelled(kind: tuple[int, int, str]) -> dict[str, Any]:
    return {"group_size": kind[0], "bits": kind[1], "mode": kind[2]}


def _dtype_name(weights: "dict[str, mx.array]") -> str:
    """The dtype that activations will have: that of the scales, else of the matrices."""
    import mlx.core as mx

    scales = {array.dtype for name, array in weights.items() if name.endswith(".scales")} - {mx.uint8}
    if not scales:
        scales = {array.dtype for name, array in weights.items() if array.ndim >= 2 and name.endswith(".weight")}
    found = {dtype for dtype in (mx.float32, mx.bfloat16, mx.float16) if dtype in scales}
    if len(found) != 1:
        return "float32"
    return {mx.float32: "float32", mx.bfloat16: "bfloat16", mx.float16: "float16"}[found.pop()]


def load_gguf(path: str | Path | gguf.GGUFFile) -> "tuple[dict[str, Any], dict[str, mx.array], dict[str, Any]]":
    """Load a GGUF model (all its parts).

    Returns (config, weights, quantization): a Hugging Face style config dict, weights under Hugging Face names
    (quantized ones as `.weight` uint32 (out, in * bits / 32), `.scales` and, for affine, `.biases`
    (out, in / group_size)), and `{"group_size", "bits", "mode", "<module path>": {...} | False}`, empty when nothing
    is quantized. Raises ModelFileError, UnsupportedError, ConfigError or ModelNotFoundError.
    """
    parts = read_parts(path)
    config = _config_of(parts)
    loader = _Loader(config, parts[0].metadata["general.architecture"])
    for tensor in _all_tensors(parts).values():
        loader.add(tensor)
    loader.join_delta()
    config["torch_dtype"] = _dtype_name(loader.weights)
    return config, loader.weights, loader.quantization()
