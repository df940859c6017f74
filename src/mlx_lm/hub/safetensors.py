"""Verify safetensors headers in Python before MLX maps a byte, then load.

Contract: `read_header` checks the header's length, JSON, names, dtypes, shapes, sizes and offsets against the file;
`load_safetensors` and `load_folder` give MLX arrays only for verified files. Errors name the file and the tensor.
It knows nothing of models: names are returned as they are stored.
Source: the safetensors format description (little-endian u64 header length, JSON header, one gapless byte buffer).
"""

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlx_lm.errors import ModelFileError, ModelNotFoundError, UnsupportedError

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = [
    "SafetensorsHeader",
    "TensorEntry",
    "load_folder",
    "load_safetensors",
    "read_header",
    "weight_files",
]

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 1 << 20
MAX_NAME = 1_024
MAX_DIMS = 16
MAX_NBYTES = 1 << 50

ITEM_SIZES: MappingProxyType[str, int] = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
    | {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}
)
# What mx.load refuses: read by numpy instead. Eight-bit floats stay raw bytes, doubles become float32.
_READ_BY_NUMPY = frozenset({"F64", "F8_E5M2"})
_NUMPY_DTYPES = MappingProxyType(
    {"BOOL": "?", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1", "I16": "<i2", "U16": "<u2"}
    | {"F16": "<f2", "BF16": "<u2", "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8"}
    | {"F64": "<f8", "C64": "<c8"}
)
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.safetensors$")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file; `start` and `end` are absolute byte positions in it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A verified header. `data_start` is where the byte buffer begins."""

    path: Path
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int
    file_size: int


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {twice[:80]!r} appears twice")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise ModelFileError(f"{path}: the safetensors header does not start with '{{'.")
    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise ModelFileError(f"{path}: the safetensors header is not valid JSON ({why}).") from None
    return parsed


def _check_entry(path: Path, name: str, entry: Any, data_start: int, file_size: int) -> TensorEntry:
    def fail(what: str) -> ModelFileError:
        return ModelFileError(f"{path}: tensor {name[:200]!r} {what}.")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise fail("must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise UnsupportedError(
            f"{path}: tensor {name[:200]!r} has the dtype {str(dtype)[:40]!r}, which is not supported."
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or any(type(n) is not int or n < 0 for n in shape):
        raise fail(f"has the impossible shape {str(shape)[:120]}")
    if any(n > 0x7FFFFFFF for n in shape):  # MLX counts each axis in 32 bits
        raise fail(f"has an axis longer than 2,147,483,647: {str(shape)[:120]}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(n) is not int or not 0 <= n <= MAX_NBYTES for n in offsets)
    ):
        raise fail(f"has the impossible data_offsets {str(offsets)[:120]}")
    start, end = offsets
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    if nbytes > MAX_NBYTES or end - start != nbytes:
        raise fail(f"spans {end - start:,} bytes but {dtype} of shape {str(shape)[:120]} needs {nbytes:,}")
    if data_start + end > file_size:
        raise fail(f"ends at byte {data_start + end:,} of a file of {file_size:,}: the file is truncated or wrong")
    return TensorEntry(dtype, tuple(shape), data_start + start, data_start + end)


def _check_name(path: Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ModelFileError(f"{path}: a tensor name holds a lone surrogate.") from None
    if not name or len(name) > MAX_NAME or "\0" in name:
        raise ModelFileError(f"{path}: the tensor name {name[:80]!r} is empty, too long or holds a NUL.")


def _check_layout(path: Path, tensors: dict[str, TensorEntry], data_start: int, file_size: int) -> None:
    """The buffer must be covered without overlap or holes, as the format demands."""
    position = data_start
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            kind = "overlaps the tensor before it" if entry.start < position else "leaves a hole before it"
            raise ModelFileError(f"{path}: tensor {name[:200]!r} {kind} (byte {entry.start:,}, expected {position:,}).")
        position = entry.end
    if position != file_size:
        raise ModelFileError(f"{path}: {file_size - position:,} bytes at the end belong to no tensor.")


def _read_raw_header(path: Path) -> tuple[bytes, int]:
    """(header bytes, file size)."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length < 2 or length > MAX_HEADER_BYTES or length > size - 8:
                raise ModelFileError(
                    f"{path}: not a safetensors file (it claims a header of {length:,} bytes in a file of {size:,})."
                )
            return file.read(length), size
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file.") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_header(path: str | Path) -> SafetensorsHeader:
    """Read and verify the header of one safetensors file.

    Raises ModelNotFoundError, ModelFileError (truncated, malformed or hostile) or UnsupportedError (unknown dtype);
    the message names the file and the tensor.
    """
    path = Path(path)
    raw, file_size = _read_raw_header(path)
    data_start = 8 + len(raw)
    parsed = _parse_json(path, raw)
    metadata = parsed.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path}: __metadata__ must map text to text.")
    if len(parsed) > MAX_TENSORS:
        raise ModelFileError(f"{path}: {len(parsed):,} tensors, the limit is {MAX_TENSORS:,}.")
    tensors: dict[str, TensorEntry] = {}
    for name, entry in parsed.items():
        _check_name(path, name)
        tensors[name] = _check_entry(path, name, entry, data_start, file_size)
    _check_layout(path, tensors, data_start, file_size)
    return SafetensorsHeader(path, tensors, metadata, data_start, file_size)


def _load_with_numpy(header: SafetensorsHeader, names: Collection[str]) -> "dict[str, mx.array]":
    import mlx.core as mx
    import numpy as np

    result: dict[str, mx.array] = {}
    for name in names:
        entry = header.tensors[name]
        flat = np.fromfile(header.path, _NUMPY_DTYPES[entry.dtype], math.prod(entry.shape), offset=entry.start)
        if entry.dtype == "F64":
            flat = flat.astype(np.float32)
        array = mx.array(flat.reshape(entry.shape))
        result[name] = array.view(mx.bfloat16) if entry.dtype == "BF16" else array
    return result


def _load_verified(header: SafetensorsHeader, names: Collection[str] | None) -> "dict[str, mx.array]":
    import mlx.core as mx

    wanted = header.tensors.keys() if names is None else names
    missing = [name for name in wanted if name not in header.tensors]
    if missing:
        raise ModelFileError(f"{header.path}: has no tensor {missing[0][:200]!r}.")
    if any(entry.dtype in _READ_BY_NUMPY for entry in header.tensors.values()):
        return _load_with_numpy(header, wanted)
    try:
        arrays: Any = mx.load(str(header.path), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise ModelFileError(f"{header.path}: MLX cannot load it ({error}).") from error
    return {name: arrays[name] for name in wanted}


def load_safetensors(path: str | Path, names: Collection[str] | None = None) -> "dict[str, mx.array]":
    """Load tensors (all, or `names`) of a verified file, lazily: bytes are read when an array is evaluated.

    F8 and other bare bytes come as uint8, F64 as float32. Raises what `read_header` raises.
    """
    return _load_verified(read_header(path), names)


def _check_location(path: Path, folder: Path) -> None:
    """A weight file lies in its folder, or is a link into the blobs of a Hugging Face cache."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ModelFileError(f"{path}: a link that leads nowhere, or in circles.") from None
    if not path.is_symlink() or real.is_relative_to(folder.resolve()):
        return
    repository = folder.parent.parent  # <cache>/models--org--name/snapshots/<revision>
    if folder.parent.name == "snapshots" and real.is_relative_to(repository.resolve() / "blobs"):
        return
    raise ModelFileError(f"{path}: links to {real}, outside the model's folder. Copy the file into the folder.")


def _index_files(folder: Path, index: Path) -> tuple[list[str], dict[str, str]]:
    """File names of an index (in order) and its map from tensor to file, every name checked."""
    try:
        raw = index.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{index}: cannot be read ({error.strerror or error}).") from error
    if len(raw) > MAX_HEADER_BYTES:
        raise ModelFileError(f"{index}: larger than {MAX_HEADER_BYTES:,} bytes.")
    weight_map = _parse_json(index, raw.strip()).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or len(weight_map) > MAX_TENSORS:
        raise ModelFileError(f"{index}: has no usable weight_map.")
    for tensor, name in weight_map.items():
        plain = isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\\0")
        if not plain or name.startswith("."):
            raise ModelFileError(
                f"{index}: tensor {tensor[:200]!r} points to {str(name)[:120]!r}, not a file beside it."
            )
    return sorted(set(weight_map.values())), weight_map


def _shards_by_name(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("model*.safetensors"))
    for name in names:
        match = _SHARD.match(name)
        if not match:
            continue
        expected = [
            f"{match['stem']}-{part:05}-of-{match['count']}.safetensors" for part in range(1, int(match["count"]) + 1)
        ]
        missing = sorted(set(expected) - set(names))
        if missing:
            raise ModelFileError(f"{folder}: shards are missing: {', '.join(missing[:8])}.")
    return names


def weight_files(folder: str | Path) -> list[Path]:
    """The weight files of a model folder: those of its index, else `model*.safetensors`. Checked to lie inside it.

    Raises ModelNotFoundError without any, ModelFileError for missing shards and for paths that leave the folder.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_location(index, folder)
        names, _ = _index_files(folder, index)
    else:
        names = _shards_by_name(folder)
    if not names:
        raise ModelNotFoundError(f"{folder}: has no model*.safetensors file.")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise ModelFileError(f"{folder}: shards are missing: {', '.join(missing[:8])}.")
    paths = [folder / name for name in names]
    for path in paths:
        _check_location(path, folder)
    return paths


def load_folder(folder: str | Path) -> "dict[str, mx.array]":
    """All tensors of a model folder, lazily, every shard verified first.

    Raises ModelNotFoundError, ModelFileError (missing shards, a tensor in two shards, an index that disagrees with
    the files or leaves the folder) or UnsupportedError.
    """
    folder = Path(folder)
    headers = [read_header(path) for path in weight_files(folder)]
    owner: dict[str, str] = {}
    for header in headers:
        for name in header.tensors:
            if name in owner:
                raise ModelFileError(f"{header.path}: tensor {name[:200]!r} is also in {owner[name]}.")
            owner[name] = header.path.name
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for tensor, file in _index_files(folder, index)[1].items():
            if owner.get(tensor) != file:
                raise ModelFileError(f"{index}: tensor {tensor[:200]!r} is not in {file}.")
    weights: dict[str, mx.array] = {}
    for header in headers:
        weights.update(_load_verified(header, None))
    return weights
