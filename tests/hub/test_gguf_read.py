"""The GGUF header reader: what it accepts, and a typed error for everything else."""

import contextlib
import struct
from pathlib import Path

import gguf_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.errors import MLXLMError, ModelFileError, ModelNotFoundError, UnsupportedError
from mlx_lm.hub import gguf

ONE = [("a.weight", (2, 32), "F32", bytes(256))]


def test_reads_values_shapes_and_offsets(tmp_path: Path):
    metadata = {
        "general.architecture": "llama",
        "n": 7,
        "x": 0.5,
        "flag": True,
        "names": ["p", "ü"],
        "deep": [[1, 2], [3]],
    }
    tensors = [*ONE, ("b.weight", (3, 4, 32), "Q8_0", bytes(3 * 4 * 34))]
    for version in (2, 3):
        file = gguf.read(gguf_files.write(tmp_path / "m.gguf", metadata, tensors, version=version))
        assert file.metadata == metadata
        assert file.tensors["b.weight"].shape == (3, 4, 32)
        assert file.tensors["b.weight"].type.name == "Q8_0"
        assert file.tensors["a.weight"].offset == file.data_offset
        assert file.tensors["b.weight"].offset % 32 == 0


def test_alignment_is_honoured(tmp_path: Path):
    tensors = [("a", (3,), "F32", bytes(12)), ("b", (3,), "F32", bytes(12))]
    path = gguf_files.write(tmp_path / "m.gguf", {"general.alignment": 64}, tensors, alignment=64)
    assert gguf.read(path).tensors["b"].offset % 64 == 0


@pytest.mark.parametrize("alignment", [0, 3, 1 << 30, "32"])
def test_bad_alignment(tmp_path: Path, alignment: int):
    with pytest.raises(ModelFileError, match="alignment"):
        gguf.read(gguf_files.write(tmp_path / "m.gguf", {"general.alignment": alignment}, ONE))


def header(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


STRING, ARRAY = struct.pack("<I", 8), struct.pack("<I", 9)
KEY = gguf_files.text("key")
HOSTILE = {
    "empty": (b"", ModelFileError, "empty"),
    "magic": (b"GGML" + bytes(60), ModelFileError, "not a GGUF"),
    "version": (header(version=1) + bytes(60), UnsupportedError, "version 1"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(60), UnsupportedError, "big-endian"),
    "tensor count": (header(tensors=1 << 60) + bytes(60), ModelFileError, "tensors"),
    "key count": (header(keys=1 << 60) + bytes(60), ModelFileError, "keys"),
    "key length": (header(keys=1) + struct.pack("<Q", 1 << 63) + bytes(60), ModelFileError, "limit"),
    "value type": (header(keys=1) + KEY + struct.pack("<I", 99) + bytes(60), ModelFileError, "type 99"),
    "string": (header(keys=1) + KEY + STRING + struct.pack("<Q", 1 << 40) + bytes(60), ModelFileError, "'key'"),
    "array": (header(keys=1) + KEY + ARRAY + struct.pack("<IQ", 10, 1 << 62) + bytes(60), ModelFileError, "items"),
    "strings": (header(keys=1) + KEY + ARRAY + struct.pack("<IQ", 8, 1 << 20) + bytes(60), ModelFileError, "strings"),
    "nesting": (header(keys=1) + KEY + ARRAY + (ARRAY + struct.pack("<Q", 1)) * 40, ModelFileError, "nests"),
    "bool": (header(keys=1) + KEY + struct.pack("<IB", 7, 2) + bytes(60), ModelFileError, "boolean"),
    "key text": (header(keys=1) + gguf_files.text(b"\xff\xfe") + bytes(60), ModelFileError, "UTF-8"),
    "same key": (header(keys=2) + (KEY + struct.pack("<II", 4, 1)) * 2 + bytes(60), ModelFileError, "twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(tmp_path: Path, case: str):
    raw, kind, words = HOSTILE[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    with pytest.raises(kind, match=words):
        gguf.read(path)


def tensor_info(
    name: str = "t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, count: int = -1
) -> bytes:
    number = len(dims) if count < 0 else count
    return gguf_files.text(name) + struct.pack(f"<I{len(dims)}QIQ", number, *dims, kind, offset)


TENSORS = {
    "dimensions": ([tensor_info(count=9)], ModelFileError, "dimensions"),
    "no extent": ([tensor_info(dims=(0, 4))], ModelFileError, "shape"),
    "overflow": ([tensor_info(dims=(1 << 40, 1 << 40))], ModelFileError, "shape"),
    "type": ([tensor_info(kind=77)], UnsupportedError, "77"),
    "block": ([tensor_info(dims=(33,), kind=8)], ModelFileError, "multiple of 32"),
    "unaligned": ([tensor_info(offset=4)], ModelFileError, "aligned"),
    "outside": ([tensor_info(offset=1 << 20)], ModelFileError, "truncated"),
    "twice": ([tensor_info(), tensor_info(offset=128)], ModelFileError, "twice"),
    "overlap": ([tensor_info("a"), tensor_info("b", offset=64)], ModelFileError, "overlaps"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_hostile_tensors(tmp_path: Path, case: str):
    infos, kind, words = TENSORS[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(header(tensors=len(infos)) + b"".join(infos) + bytes(1024))
    with pytest.raises(kind, match=words):
        gguf.read(path)


def test_a_truncated_file_names_the_tensor(tmp_path: Path):
    path = gguf_files.write(tmp_path / "m.gguf", {}, ONE)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=r"a\.weight"):
        gguf.read(path)
    with pytest.raises(ModelNotFoundError):
        gguf.read(tmp_path / "none.gguf")


def test_split_parts(tmp_path: Path):
    first = gguf_files.write(tmp_path / "m-00001-of-00002.gguf", {"split.count": 2}, ONE)
    with pytest.raises(ModelFileError, match="00002-of-00002"):
        gguf.split_paths(first, {"split.count": 2})
    second = gguf_files.write(tmp_path / "m-00002-of-00002.gguf", {}, [])
    assert gguf.split_paths(first, {"split.count": 2}) == [first, second]
    with pytest.raises(ModelFileError, match="name"):
        gguf.split_paths(tmp_path / "m.gguf", {"split.count": 2})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_give_a_typed_error_or_a_header(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    start = gguf_files.gguf_bytes({"general.architecture": "llama", "k": [1, 2], "s": "x"}, ONE)
    at = data.draw(st.integers(0, len(start) - 256))
    patch = data.draw(st.binary(min_size=1, max_size=24))
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(start[:at] + patch + start[at + len(patch) :])
    with contextlib.suppress(MLXLMError):
        gguf.read(path)
