"""Read and verify the header of a GGUF file (versions 2 and 3, little-endian).

Contract: `read` checks every count, length, type, alignment and offset against limits and against the size of the
file before anything is trusted, and returns plain Python values. It knows nothing of architectures, names or
quantization math, and never touches tensor data.
Source: the GGUF specification of the ggml project.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlx_lm.errors import ModelFileError, ModelNotFoundError, UnsupportedError

__all__ = ["GGML_TYPES", "GGUFFile", "GGUFTensor", "GgmlType", "read", "split_paths"]

MAX_TENSORS = 1 << 20
MAX_KEYS = 1 << 16
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 256
MAX_STRING_BYTES = 64 << 20
MAX_ARRAY_ITEMS = 1 << 26
MAX_NESTING = 3
MAX_DIMS = 4
MAX_ELEMENTS = 1 << 46
MAX_ALIGNMENT = 1 << 20
MAX_SPLITS = 1_000


@dataclass(frozen=True)
class GgmlType:
    """One storage type: its name, weights per block and bytes per block."""

    name: str
    block: int
    nbytes: int


GGML_TYPES: MappingProxyType[int, GgmlType] = MappingProxyType(
    {
        number: GgmlType(name, block, nbytes)
        for number, name, block, nbytes in (
            (0, "F32", 1, 4),
            (1, "F16", 1, 2),
            (2, "Q4_0", 32, 18),
            (3, "Q4_1", 32, 20),
            (6, "Q5_0", 32, 22),
            (7, "Q5_1", 32, 24),
            (8, "Q8_0", 32, 34),
            (9, "Q8_1", 32, 40),
            (10, "Q2_K", 256, 84),
            (11, "Q3_K", 256, 110),
            (12, "Q4_K", 256, 144),
            (13, "Q5_K", 256, 176),
            (14, "Q6_K", 256, 210),
            (15, "Q8_K", 256, 292),
            (16, "IQ2_XXS", 256, 66),
            (17, "IQ2_XS", 256, 74),
            (18, "IQ3_XXS", 256, 98),
            (19, "IQ1_S", 256, 50),
            (20, "IQ4_NL", 32, 18),
            (21, "IQ3_S", 256, 110),
            (22, "IQ2_S", 256, 82),
            (23, "IQ4_XS", 256, 136),
            (24, "I8", 1, 1),
            (25, "I16", 1, 2),
            (26, "I32", 1, 4),
            (27, "I64", 1, 8),
            (28, "F64", 1, 8),
            (29, "IQ1_M", 256, 56),
            (30, "BF16", 1, 2),
            (34, "TQ1_0", 256, 54),
            (35, "TQ2_0", 256, 66),
            (39, "MXFP4", 32, 17),
            (40, "NVFP4", 64, 36),
        )
    }
)

# value type number -> struct code of one item
_SCALARS = MappingProxyType({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"})
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SPLIT_NAME = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies: `shape` is row-major (numpy order), `offset` is from the start of `path`."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    nbytes: int
    path: Path


@dataclass(frozen=True)
class GGUFFile:
    """A verified header. `metadata` holds int, float, bool, str and lists of them."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    data_offset: int


_WINDOW = 1 << 18  # bytes of metadata read at a time


class _Cursor:
    """Bounds-checked little-endian reads over the mapped file."""

    def __init__(self, buffer: mmap.mmap, path: Path):
        self.buffer = buffer
        self.size = len(buffer)
        self.position = 0
        self.path = path

    def fail(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what} (at byte {self.position:,} of {self.size:,}).")

    def take(self, nbytes: int, what: str) -> int:
        start = self.position
        if nbytes < 0 or nbytes > self.size - start:
            raise self.fail(f"the file ends inside {what}")
        self.position = start + nbytes
        return start

    def number(self, code: str, what: str) -> Any:
        return struct.unpack_from("<" + code, self.buffer, self.take(struct.calcsize("<" + code), what))[0]

    def string(self, limit: int, what: str, *, strict: bool = True) -> str:
        length = self.number("Q", what)
        if length > limit:
            raise self.fail(f"{what} claims {length:,} bytes, the limit is {limit:,}")
        start = self.take(length, what)
        try:
            # Token texts may hold partial characters; names and keys may not.
            return str(self.buffer[start : start + length], "utf-8", "strict" if strict else "replace")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not valid UTF-8") from None

    def strings(self, count: int, what: str) -> list[str]:
        """A tight loop: vocabularies have up to 262,144 entries and 0.1 s matters at start-up."""
        unpack, size, position = struct.Struct("<Q").unpack_from, self.size, self.position
        buffer, first = self.buffer, 0  # a window of the file, from byte `first` on: slices of bytes are the fastest
        window = b""
        out: list[str] = []
        append = out.append
        for _ in range(count):
            start = position - first
            if start + 8 > len(window) or start + 8 + (length := unpack(window, start)[0]) > len(window):
                if position + 8 > size:
                    raise self.fail(f"the file ends inside {what}")
                length = unpack(buffer, position)[0]
                if length > MAX_STRING_BYTES or position + 8 + length > size:
                    raise self.fail(f"entry {len(out)} of {what} is longer than the file or the limit")
                window, first = buffer[position : position + max(_WINDOW, 8 + length)], position
                start = 0
            end = start + 8 + length
            append(window[start + 8 : end].decode("utf-8", "replace"))
            position = first + end
        self.position = position
        return out

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind in _SCALARS:
            if kind == _BOOL:
                return self.boolean(self.number("B", what), what)
            return self.number(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(MAX_STRING_BYTES, what, strict=False)
        if kind == _ARRAY:
            return self.array(what, depth)
        raise self.fail(f"{what} has the unknown value type {kind}")

    def boolean(self, raw: int, what: str) -> bool:
        if raw > 1:
            raise self.fail(f"{what} is a boolean with the value {raw}")
        return raw == 1

    def array(self, what: str, depth: int) -> list[Any]:
        if depth >= MAX_NESTING:
            raise self.fail(f"{what} nests arrays deeper than {MAX_NESTING}")
        kind, count = self.number("I", what), self.number("Q", what)
        if count > MAX_ARRAY_ITEMS:
            raise self.fail(f"{what} claims {count:,} items, the limit is {MAX_ARRAY_ITEMS:,}")
        if kind in _SCALARS:
            code = "B" if kind == _BOOL else _SCALARS[kind]
            start = self.take(count * struct.calcsize("<" + code), what)
            items = list(struct.unpack_from(f"<{count}{code}", self.buffer, start))
            return [self.boolean(item, what) for item in items] if kind == _BOOL else items
        if kind == _STRING:
            if count * 8 > self.size - self.position:
                raise self.fail(f"{what} claims {count:,} strings, more than the file can hold")
            return self.strings(count, what)
        if kind == _ARRAY:
            if count * 12 > self.size - self.position:
                raise self.fail(f"{what} claims {count:,} arrays, more than the file can hold")
            return [self.array(what, depth + 1) for _ in range(count)]
        raise self.fail(f"{what} is an array of the unknown value type {kind}")


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    if cursor.size < 24 or cursor.buffer[:4] != b"GGUF":
        raise ModelFileError(f"{cursor.path}: not a GGUF file (the first four bytes are not 'GGUF').")
    cursor.position = 4
    version = cursor.number("I", "the version")
    if version not in (2, 3):
        if version in (2 << 24, 3 << 24):
            raise UnsupportedError(f"{cursor.path}: big-endian GGUF files are not supported.")
        raise UnsupportedError(f"{cursor.path}: GGUF version {version} is not supported, only 2 and 3.")
    tensor_count, key_count = cursor.number("Q", "the tensor count"), cursor.number("Q", "the key count")
    if tensor_count > min(MAX_TENSORS, cursor.size // 32):
        raise cursor.fail(f"the header claims {tensor_count:,} tensors, more than the limit or the file can hold")
    if key_count > min(MAX_KEYS, cursor.size // 13):
        raise cursor.fail(f"the header claims {key_count:,} metadata keys, more than the limit or the file can hold")
    return tensor_count, key_count


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(MAX_KEY_BYTES, f"metadata key {index}")
        if key in metadata:
            raise cursor.fail(f"metadata key {key!r} appears twice")
        metadata[key] = cursor.value(cursor.number("I", f"the type of {key!r}"), f"metadata {key!r}")
    return metadata


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, it must be a power of two up to {MAX_ALIGNMENT:,}")
    return alignment


def _read_tensor_info(cursor: _Cursor, index: int) -> tuple[str, tuple[int, ...], GgmlType, int, int]:
    name = cursor.string(MAX_NAME_BYTES, f"the name of tensor {index}")
    dims = cursor.number("I", f"tensor {name!r}")
    if not 1 <= dims <= MAX_DIMS:
        raise cursor.fail(f"tensor {name!r} has {dims} dimensions, allowed are 1 to {MAX_DIMS}")
    extents = [cursor.number("Q", f"tensor {name!r}") for _ in range(dims)]
    number, offset = cursor.number("I", f"tensor {name!r}"), cursor.number("Q", f"tensor {name!r}")
    if min(extents) < 1 or math.prod(extents) > MAX_ELEMENTS:
        raise cursor.fail(f"tensor {name!r} has the impossible shape {tuple(reversed(extents))}")
    if number not in GGML_TYPES:
        raise UnsupportedError(f"{cursor.path}: tensor {name!r} has the unknown storage type {number}.")
    kind = GGML_TYPES[number]
    if extents[0] % kind.block:
        raise cursor.fail(
            f"tensor {name!r} has rows of {extents[0]} weights, {kind.name} needs a multiple of {kind.block}"
        )
    return name, tuple(reversed(extents)), kind, offset, math.prod(extents) // kind.block * kind.nbytes


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[dict[str, GGUFTensor], int]:
    infos = [_read_tensor_info(cursor, index) for index in range(count)]
    data_offset = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, kind, offset, nbytes in infos:
        if name in tensors:
            raise cursor.fail(f"tensor {name!r} appears twice")
        if offset % alignment:
            raise cursor.fail(f"tensor {name!r} starts at {offset:,}, which is not aligned to {alignment}")
        if data_offset + offset + nbytes > cursor.size:
            raise cursor.fail(
                f"tensor {name!r} needs bytes up to {data_offset + offset + nbytes:,}: the file is truncated or wrong"
            )
        tensors[name] = GGUFTensor(name, shape, kind, data_offset + offset, nbytes, cursor.path)
    end, previous = data_offset, ""
    for tensor in sorted(tensors.values(), key=lambda item: (item.offset, item.nbytes)):
        if tensor.offset < end:
            raise cursor.fail(f"tensor {tensor.name!r} overlaps tensor {previous!r}")
        end, previous = tensor.offset + tensor.nbytes, tensor.name
    return tensors, data_offset


def read(path: str | Path) -> GGUFFile:
    """Read and verify the header of one GGUF file.

    Raises ModelNotFoundError when there is no such file, ModelFileError when it is truncated or malformed (the
    message names the key or tensor), UnsupportedError for versions and storage types that are not known.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ModelFileError(f"{path}: the file is empty.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                cursor = _Cursor(buffer, path)
                tensor_count, key_count = _read_start(cursor)
                metadata = _read_metadata(cursor, key_count)
                tensors, data_offset = _read_tensors(cursor, tensor_count, _alignment(cursor, metadata))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path}: no such file.") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return GGUFFile(path, metadata, tensors, data_offset)


def split_paths(path: Path, metadata: dict[str, Any]) -> list[Path]:
    """All parts of a split model, first to last, when `path` is one of them; else just `path`.

    Raises ModelFileError when `split.count` and the file name disagree or a part is missing.
    """
    count = metadata.get("split.count", 1)
    if count in (0, 1):
        return [path]
    match = _SPLIT_NAME.match(path.name)
    if type(count) is not int or not match or int(match["count"]) != count or count > MAX_SPLITS:
        raise ModelFileError(
            f"{path}: is one of {count} parts, but its name does not end in '-00001-of-{count:0>5}.gguf'. "
            "Keep the published names of the parts."
        )
    parts = [path.with_name(f"{match['stem']}-{index:05}-of-{count:05}.gguf") for index in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelFileError(f"{path}: parts are missing in the same folder: {', '.join(missing)}.")
    return parts
