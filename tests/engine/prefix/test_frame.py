"""Frames: what goes in comes out, other tools can read the image, and no damage goes unnoticed."""

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from mlx_lm.engine.prefix.frame import HEADER_BYTES, VERSION, Frame, StoredArray, decode, decode_header
from mlx_lm.errors import CacheMismatchError

SPACE, KEY, PARENT = b"s" * 16, b"k" * 16, b"p" * 16


def array(dtype: str, shape: tuple[int, ...], data: bytes) -> StoredArray:
    return StoredArray(dtype, shape, memoryview(data))


def frame_bytes(arrays=None, meta=None, parent=PARENT, **kwargs) -> bytes:
    chance = random.Random(1)
    if arrays is None:
        arrays = {
            "keys": array("BF16", (1, 2, 5, 4), chance.randbytes(80)),
            "mask": array("U8", (7,), chance.randbytes(7)),
            "scales": array("F32", (3, 3), chance.randbytes(36)),
        }
    frame = Frame(SPACE, KEY, parent, arrays, meta or {"fields": {"0": [1, None, "x"]}}, **kwargs)
    data = b"".join(frame.chunks())
    assert len(data) == frame.size
    return data


DTYPES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "U32": 4, "I64": 8}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=4)),
        max_size=6,
    ),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=3),
    st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
)
@settings(max_examples=60, deadline=None)
def test_round_trip(shapes, meta, parent):
    chance = random.Random(0)
    arrays = {
        name: array(dtype, tuple(shape), chance.randbytes(int(np.prod(shape)) * DTYPES[dtype]))
        for name, (dtype, shape) in shapes.items()
    }
    data = frame_bytes(arrays, {"m": meta}, parent)
    block = decode(data, SPACE, KEY)
    assert block.meta == {"m": meta} and block.parent == parent
    assert block.arrays == arrays
    header = decode_header(data)
    assert (header.namespace, header.key, header.parent, header.complete) == (SPACE, KEY, parent, True)
    assert header.file_bytes == len(data)


def test_other_tools_read_the_image():
    data = np.arange(12, dtype=np.float32)
    whole = frame_bytes({"a": array("F32", (3, 4), data.tobytes()), "b": array("U8", (3,), b"abc")})
    found = load_safetensors(whole[HEADER_BYTES:-16])
    assert np.array_equal(found["a"], data.reshape(3, 4)) and bytes(found["b"]) == b"abc"


def test_arrays_are_aligned():
    block = decode(frame_bytes(), SPACE, KEY)
    start = np.frombuffer(block.arrays["scales"].data, np.uint8).ctypes.data
    base = np.frombuffer(block.arrays["scales"].data.obj, np.uint8).ctypes.data
    assert (start - base) % 64 == 0


@pytest.mark.parametrize("flips", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found(flips):
    whole = frame_bytes()
    bits = len(whole) * 8
    chance = random.Random(flips)
    # All bits of the header and of the end, and as many in between as asked for.
    chosen = [*range(HEADER_BYTES * 8), *range(bits - 128, bits)]
    chosen += [chance.randrange(bits) for _ in range(max(flips - len(chosen), 100))]
    assert len(chosen) >= flips
    for bit in chosen:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CacheMismatchError):
            decode(bytes(damaged), SPACE, KEY)


def test_every_truncation_is_found():
    whole = frame_bytes({"a": array("U8", (9000,), os.urandom(9000))})
    cuts = {*range(0, len(whole), 1024), *range(200), *range(len(whole) - 200, len(whole))}
    for length in cuts:
        with pytest.raises(CacheMismatchError):
            decode(whole[:length], SPACE, KEY)
    with pytest.raises(CacheMismatchError):
        decode(whole + b"\0", SPACE, KEY)


def test_another_block_under_the_name():
    whole = frame_bytes()
    with pytest.raises(CacheMismatchError, match="another one"):
        decode(whole, SPACE, PARENT)
    with pytest.raises(CacheMismatchError, match="another one"):
        decode(whole, KEY, KEY)


@pytest.mark.parametrize("bad", [array("F32", (3,), b"x"), array("F99", (1,), b"x")])
def test_arrays_that_do_not_fit_their_shape_are_refused(bad):
    with pytest.raises(CacheMismatchError):
        Frame(SPACE, KEY, None, {"a": bad}, {})


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_malformed_images_with_a_right_checksum(image):
    """Whoever can write the folder can also make checksums: only the typed error comes, whatever is inside."""
    import hashlib
    import struct
    import zlib

    for body in (image, len(image).to_bytes(8, "little") + image):
        head = struct.pack("<8sII16s16s16sQ", b"MLXLMPC1", VERSION, 0, SPACE, KEY, bytes(16), len(body))
        whole = head + zlib.crc32(head).to_bytes(4, "little") + body
        whole += hashlib.sha256(whole).digest()[:16]
        with pytest.raises(CacheMismatchError, match="image is malformed"):
            decode(whole, SPACE, KEY)


@pytest.mark.parametrize(
    "text",
    [
        b'{"__metadata__":{"block":"{}"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,9]}}',
        b'{"__metadata__":{"block":"{}"},"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}',
        b'{"__metadata__":{"block":"{}"},"a":{"dtype":"U8","shape":[-3],"data_offsets":[0,-3]}}',
        b'{"__metadata__":{"block":"{}"},"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}',
        b'{"__metadata__":{"block":"[]"}}',
        b'{"__metadata__":{}}',
        b"[]",
        b"[" * 100_000,
    ],
)
def test_malformed_headers_with_a_right_checksum(text):
    from mlx_lm.engine.prefix.frame import _read_image

    image = memoryview(len(text).to_bytes(8, "little") + text + b"abc")
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError, RecursionError)):
        _read_image(image)
