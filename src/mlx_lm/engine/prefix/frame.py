"""One block as bytes: a fixed header, a safetensors image, a checksum. Pure Python, no I/O.

    magic "MLXLMPC1" | version u32 | flags u32 | namespace 16 | key 16 | parent 16 | payload length u64 | CRC-32 u32
    safetensors image (its `__metadata__` holds the caller's fields as JSON under "block")
    the first 16 bytes of the SHA-256 of everything before it, which processors have instructions for

All integers are little-endian. The header's CRC tells a foreign or torn file before its payload is believed; the
checksum at the end covers every byte, so that any flipped bit and any missing tail is found. The image starts at
byte 76 and can be cut out for any safetensors reader. The module does not know what the arrays mean.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from ...errors import CacheMismatchError

__all__ = ["VERSION", "BufferView", "Frame", "FrameHeader", "StoredArray", "StoredBlock", "decode", "decode_header"]

VERSION = 2
HEADER_BYTES = 76
CHECKSUM_BYTES = 16
KEY_BYTES = 16

_MAGIC = b"MLXLMPC1"
_HEADER = struct.Struct("<8sII16s16s16sQ")  # the CRC follows
_HAS_PARENT, _COMPLETE = 1, 2
_ALIGN = 64  # array bytes start on a cache line
_ITEM_SIZES: MappingProxyType[str, int] = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2}
    | {"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8}
)


class BufferView(Protocol):
    """One array's bytes; `dtype` as safetensors spells it, `data` anything with the buffer protocol."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> Any: ...


@dataclass(frozen=True)
class StoredArray:
    """One array of a block that was read."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True)
class StoredBlock:
    """A block that was read and verified."""

    arrays: dict[str, StoredArray]
    meta: dict[str, Any]
    parent: bytes | None


@dataclass(frozen=True)
class FrameHeader:
    """What the header says; `complete`: a sequence can be resumed at the block's end."""

    namespace: bytes
    key: bytes
    parent: bytes | None
    complete: bool
    payload_bytes: int

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.payload_bytes + CHECKSUM_BYTES


class Frame:
    """A block to be written: `size` bytes, given by `chunks()` without copying the arrays.

    Raises CacheMismatchError for a dtype that is not known or an array whose bytes are not what its shape says.
    """

    def __init__(
        self,
        namespace: bytes,
        key: bytes,
        parent: bytes | None,
        arrays: Mapping[str, BufferView],
        meta: Mapping[str, Any],
        *,
        complete: bool = True,
    ):
        image_header, self._parts = _image(arrays, meta)
        payload = len(image_header) + sum(part.nbytes for part in self._parts)
        flags = (_HAS_PARENT if parent is not None else 0) | (_COMPLETE if complete else 0)
        head = _HEADER.pack(_MAGIC, VERSION, flags, namespace, key, parent or bytes(KEY_BYTES), payload)
        self._head = head + zlib.crc32(head).to_bytes(4, "little") + image_header
        self.size = HEADER_BYTES + payload + CHECKSUM_BYTES

    def chunks(self) -> Iterator[memoryview]:
        """The frame's bytes, in order."""
        checksum = hashlib.sha256(self._head)
        yield memoryview(self._head)
        for part in self._parts:
            checksum.update(part)
            yield part
        yield memoryview(checksum.digest()[:CHECKSUM_BYTES])


def decode_header(data: bytes | memoryview) -> FrameHeader:
    """The header of a frame that starts with `data`; raises CacheMismatchError when it is not one of this version."""
    if len(data) < HEADER_BYTES:
        raise CacheMismatchError("The block is shorter than its header.")
    head = bytes(data[:HEADER_BYTES])
    magic, version, flags, namespace, key, parent, payload = _HEADER.unpack_from(head)
    if magic != _MAGIC or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
        raise CacheMismatchError("The block's header is damaged.")
    if version != VERSION or flags & ~(_HAS_PARENT | _COMPLETE):
        raise CacheMismatchError(f"The block has format {version}; this version reads {VERSION}.")
    return FrameHeader(namespace, key, parent if flags & _HAS_PARENT else None, bool(flags & _COMPLETE), payload)


def decode(data: bytes, namespace: bytes, key: bytes) -> StoredBlock:
    """The block in a whole frame, every byte verified before any is interpreted.

    Raises CacheMismatchError when it is damaged, truncated, of another version or not the block that was asked for.
    """
    header = decode_header(data)
    if len(data) != header.file_bytes:
        raise CacheMismatchError(f"The block has {len(data):,} bytes but its header says {header.file_bytes:,}.")
    view = memoryview(data)
    checksum = hashlib.sha256(view[:-CHECKSUM_BYTES]).digest()
    if checksum[:CHECKSUM_BYTES] != view[-CHECKSUM_BYTES:]:
        raise CacheMismatchError("The block's checksum is wrong.")
    if (header.namespace, header.key) != (namespace, key):
        raise CacheMismatchError("The block is another one than its name says.")
    try:
        arrays, meta = _read_image(view[HEADER_BYTES:-CHECKSUM_BYTES])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CacheMismatchError(f"The block's safetensors image is malformed: {error!r}.") from error
    return StoredBlock(arrays, meta, header.parent)


def _image(arrays: Mapping[str, BufferView], meta: Mapping[str, Any]) -> tuple[bytes, list[memoryview]]:
    """The image's header (length word included, padded) and its byte buffers in file order."""
    entries: dict[str, Any] = {"__metadata__": {"block": json.dumps(dict(meta))}}
    parts, position = [], 0
    # Wide items first: every array then lies at a multiple of its item size.
    for name, array in sorted(arrays.items(), key=lambda pair: (-_ITEM_SIZES.get(pair[1].dtype, 0), pair[0])):
        part = memoryview(array.data)
        part = part.cast("B") if part.nbytes else memoryview(b"")  # views with zeros in their shape can't be cast
        if array.dtype not in _ITEM_SIZES or part.nbytes != math.prod(array.shape) * _ITEM_SIZES[array.dtype]:
            raise CacheMismatchError(f"{name}: {part.nbytes} bytes are not {array.dtype} of shape {array.shape}.")
        offsets = [position, position + part.nbytes]
        entries[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": offsets}
        parts.append(part)
        position += part.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-(HEADER_BYTES + 8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text, parts


def _read_image(image: memoryview) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    start = 8 + int.from_bytes(image[:8], "little")
    if len(image) < start:
        raise ValueError("its header is longer than the image")
    entries = json.loads(bytes(image[8:start]))
    meta = json.loads(entries.pop("__metadata__")["block"])
    if not isinstance(meta, dict):
        raise ValueError("its fields are not an object")
    body, arrays = image[start:], {}
    for name, entry in entries.items():
        shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
        if any(type(n) is not int or n < 0 for n in (*shape, first, last)):
            raise ValueError(f"{name} has an impossible shape or place")
        if last > len(body) or last - first != math.prod(shape) * _ITEM_SIZES[entry["dtype"]]:
            raise ValueError(f"{name} has another size than its shape")
        arrays[name] = StoredArray(entry["dtype"], shape, body[first:last])
    return arrays, meta
