"""Verification of safetensors headers, folders and indexes."""

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_lm.errors import MLXLMError, ModelFileError, ModelNotFoundError, UnsupportedError
from mlx_lm.hub import fingerprint, load_folder, load_safetensors, read_header


def raw_file(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str, shape: list[Any], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {"a": entry("F32", [2, 2], 0, 16), "b": entry("U8", [3], 16, 19)}


def test_reads_what_mlx_wrote(tmp_path: Path):
    arrays = {
        "x": mx.arange(6).reshape(2, 3),
        "y": mx.ones(3, mx.bfloat16),
        "empty": mx.zeros((0, 4)),
        "one": mx.array(1.5),
    }
    mx.save_safetensors(str(tmp_path / "m.safetensors"), arrays, {"format": "mlx"})
    header = read_header(tmp_path / "m.safetensors")
    assert header.metadata == {"format": "mlx"}
    assert header.tensors["x"].shape == (2, 3)
    loaded = load_safetensors(tmp_path / "m.safetensors")
    assert loaded.keys() == arrays.keys()
    assert mx.array_equal(loaded["x"], arrays["x"]).item()
    assert load_safetensors(tmp_path / "m.safetensors", ["y"]).keys() == {"y"}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "U8", "BOOL"])
def test_one_byte_types_come_as_bytes(tmp_path: Path, dtype: str):
    path = raw_file(tmp_path / "m.safetensors", {"a": entry(dtype, [4], 0, 4)}, bytes([0, 1, 1, 0]))
    array = load_safetensors(path)["a"]
    assert array.dtype == (mx.bool_ if dtype == "BOOL" else mx.uint8)
    assert array.tolist() == [0, 1, 1, 0]


def test_types_that_mlx_cannot_map_are_read_by_numpy(tmp_path: Path):
    header = {"d": entry("F64", [2], 0, 16), "h": entry("BF16", [1], 16, 18), "i": entry("I64", [1], 18, 26)}
    data = np.array([1.5, -2]).tobytes() + b"\xc0\x3f" + (7).to_bytes(8, "little")
    arrays = load_safetensors(raw_file(tmp_path / "m.safetensors", header, data))
    assert (arrays["d"].tolist(), arrays["h"].item(), arrays["i"].item()) == ([1.5, -2], 1.5, 7)
    assert arrays["h"].dtype == mx.bfloat16


HOSTILE: dict[str, tuple[Any, bytes, str]] = {
    "not json": (b"{nope}", b"", "JSON"),
    "array": (b"[]", b"", "start"),
    "deep": (b'{"a":' + b"[" * 100_000, b"", "JSON"),
    "duplicate": (b'{"a":1,"a":2}', b"", "twice"),
    "nan": (b'{"a":NaN}', b"", "JSON"),
    "text": (b'{"\xff":1}', b"", "JSON"),
    "surrogate": (b'{"\\ud800":1}', b"", "surrogate"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "metadata"),
    "metadata kind": ({"__metadata__": ["a"]}, b"", "metadata"),
    "entry": ({"w": 3}, b"", "'w'"),
    "extra": ({"w": entry("U8", [1], 0, 1) | {"x": 1}}, b"1", "'w'"),
    "negative": ({"w": entry("U8", [-1], 0, 1)}, b"1", "shape"),
    "float shape": ({"w": entry("U8", [1.0], 0, 1)}, b"1", "shape"),
    "bool shape": ({"w": entry("U8", [True], 0, 1)}, b"1", "shape"),
    "wide": ({"w": entry("U8", [1 << 31], 0, 1)}, b"1", "axis"),
    "overflow": ({"w": entry("F32", [1 << 30] * 16, 0, 4)}, b"1234", "needs"),
    "offsets": ({"w": {"dtype": "U8", "shape": [1], "data_offsets": [1]}}, b"1", "data_offsets"),
    "huge offsets": ({"w": entry("U8", [1], 1 << 80, (1 << 80) + 1)}, b"1", "data_offsets"),
    "backwards": ({"w": entry("U8", [1], 1, 0)}, b"1", "needs"),
    "size": ({"w": entry("F32", [2], 0, 4)}, b"1234", "needs 8"),
    "truncated": ({"w": entry("U8", [9], 0, 9)}, b"1", "truncated"),
    "overlap": ({"a": entry("U8", [2], 0, 2), "w": entry("U8", [2], 1, 3)}, b"123", "overlaps"),
    "hole": ({"w": entry("U8", [1], 1, 2)}, b"12", "hole"),
    "tail": ({"w": entry("U8", [1], 0, 1)}, b"12", "no tensor"),
    "nul": ({"a\0": entry("U8", [1], 0, 1)}, b"1", "NUL"),
    "long name": ({"a" * 2000: entry("U8", [1], 0, 1)}, b"1", "too long"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(tmp_path: Path, case: str):
    header, data, words = HOSTILE[case]
    with pytest.raises(ModelFileError, match=words):
        load_safetensors(raw_file(tmp_path / "m.safetensors", header, data))


def test_header_length_and_dtype(tmp_path: Path):
    for length in (0, 1 << 40, 1 << 63, 500):
        with pytest.raises(ModelFileError, match="header"):
            read_header(raw_file(tmp_path / "m.safetensors", GOOD, bytes(19), length=length))
    (tmp_path / "m.safetensors").write_bytes(b"123")
    with pytest.raises(ModelFileError, match="header"):
        read_header(tmp_path / "m.safetensors")
    with pytest.raises(UnsupportedError, match=r"'w'.*F4"):
        read_header(raw_file(tmp_path / "m.safetensors", {"w": entry("F4", [2], 0, 1)}, b"1"))
    with pytest.raises(ModelNotFoundError):
        read_header(tmp_path / "none.safetensors")


def shards(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-0000{index}-of-00002.safetensors" for index in (1, 2)]
    mx.save_safetensors(str(folder / names[0]), {"a": mx.ones(2)})
    mx.save_safetensors(str(folder / names[1]), {"b": mx.zeros(2)})
    index = {"metadata": {"total_size": 16}, "weight_map": {"a": names[0], "b": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_folder_by_index_and_by_name(tmp_path: Path):
    folder = shards(tmp_path / "m")
    assert load_folder(folder).keys() == {"a", "b"}
    (folder / "model.safetensors.index.json").unlink()
    assert load_folder(folder).keys() == {"a", "b"}
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFileError, match="00002-of-00002"):
        load_folder(folder)
    with pytest.raises(ModelNotFoundError):
        load_folder(tmp_path)


def test_missing_duplicate_and_misplaced_tensors(tmp_path: Path):
    folder = shards(tmp_path / "m")
    mx.save_safetensors(str(folder / "model-00002-of-00002.safetensors"), {"a": mx.ones(2), "b": mx.ones(2)})
    with pytest.raises(ModelFileError, match="'a' is also in"):
        load_folder(folder)
    mx.save_safetensors(str(folder / "model-00002-of-00002.safetensors"), {"c": mx.ones(2)})
    with pytest.raises(ModelFileError, match="'b' is not in"):
        load_folder(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "x.bin", ".x.safetensors", 3, None]
)
def test_an_index_cannot_leave_its_folder(tmp_path: Path, name: Any):
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"a": mx.ones(2)})
    folder = shards(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelFileError, match="not a file beside it"):
        load_folder(folder)


def test_links_lead_only_into_the_blobs_of_the_same_repository(tmp_path: Path):
    repo = tmp_path / "models--o--m"
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    mx.save_safetensors(str(repo / "blobs" / "1.safetensors"), {"a": mx.ones(2)})
    (snapshot / "model.safetensors").symlink_to("../../blobs/1.safetensors")
    assert load_folder(snapshot).keys() == {"a"}
    outside = tmp_path / "outside.safetensors"
    mx.save_safetensors(str(outside), {"a": mx.ones(2)})
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(outside)
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        load_folder(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(ModelFileError):
        load_folder(snapshot)


def test_fingerprint_follows_the_weights_not_the_place(tmp_path: Path):
    first = fingerprint(shards(tmp_path / "one"))
    assert fingerprint(shards(tmp_path / "two")) == first
    mx.save_safetensors(str(tmp_path / "two" / "model-00002-of-00002.safetensors"), {"b": mx.ones(2)})
    assert fingerprint(tmp_path / "two") != first


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_header_gives_a_typed_error_or_arrays(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    text = json.dumps(GOOD).encode()
    at = data.draw(st.integers(0, len(text)))
    patch = data.draw(st.binary(max_size=12) | st.sampled_from([b"-1", b"1e9", b"null", b'"', b"{}", b"99999999999"]))
    skip = data.draw(st.integers(0, 12))
    path = raw_file(
        tmp_path_factory.getbasetemp() / "any.safetensors", text[:at] + patch + text[at + skip :], bytes(19)
    )
    with contextlib.suppress(MLXLMError):
        mx.eval(load_safetensors(path))


@pytest.mark.skipif(os.name == "nt", reason="no such permission bits")
def test_a_folder_in_place_of_a_file(tmp_path: Path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_folder(tmp_path)
