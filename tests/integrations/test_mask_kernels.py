"""The mask kernels for devices without Metal: their numbers, and when they step in. Stand-ins for the libraries."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_lm.integrations import mask_kernels

METAL_ONLY = "def {name}(data, mask):\n    raise RuntimeError('[metal_kernel] No Metal back-end.')\n"
ANYWHERE = "def {name}(data, mask):\n    return data\n"


def reference(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    result = np.full_like(data, -np.inf)
    for row in range(data.shape[0]):
        for token in range(data.shape[1]):
            word = token // 32
            if word < mask.shape[1] and (int(mask[row, word]) >> (token % 32)) & 1:
                result[row, token] = data[row, token]
    return result


@pytest.mark.parametrize(("rows", "tokens", "words"), [(1, 32, 1), (2, 70, 3), (3, 65, 3), (2, 100, 2), (1, 1, 1)])
def test_masks_as_the_bits_say(rows: int, tokens: int, words: int) -> None:
    rng = np.random.default_rng(tokens)
    data = rng.normal(size=(rows, tokens)).astype(np.float32)
    mask = rng.integers(-(2**31), 2**31, size=(rows, words)).astype(np.int32)
    found = np.array(mask_kernels.apply_bitmask(mx.array(data), mx.array(mask)))
    np.testing.assert_array_equal(found, reference(data, mask))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_keeps_the_dtype(dtype: mx.Dtype) -> None:
    assert mask_kernels.apply_bitmask(mx.zeros((1, 40), dtype), mx.full((1, 2), -1, mx.int32)).dtype == dtype


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in _imported():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f).__module__ != mask_kernels.__name__])
    yield tmp_path
    for name in _imported():  # else later tests of this process would get the stand-ins
        del sys.modules[name]


def _imported() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ("outlines_core", "llguidance")]


def write(folder: Path, module: str, text: str) -> None:
    *packages, name = module.split(".")
    for depth in range(1, len(packages) + 1):
        place = folder.joinpath(*packages[:depth])
        place.mkdir(exist_ok=True)
        (place / "__init__.py").touch()
    folder.joinpath(*packages, f"{name}.py").write_text(text)
    importlib.invalidate_caches()


@pytest.mark.parametrize(("module", "name"), mask_kernels.TARGETS.items())
def test_replaces_a_kernel_that_fails_here(libraries: Path, module: str, name: str) -> None:
    write(libraries, module, METAL_ONLY.format(name=name))
    mask_kernels.install()
    loaded = importlib.import_module(module)
    assert getattr(loaded, name) is mask_kernels.apply_bitmask
    assert loaded.__spec__ is not None and loaded.__spec__.loader is not None
    assert loaded.__spec__.loader.get_source(module) == METAL_ONLY.format(name=name)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("module", "name"), mask_kernels.TARGETS.items())
def test_mends_what_is_imported_already(libraries: Path, module: str, name: str) -> None:
    write(libraries, module, METAL_ONLY.format(name=name))
    loaded = importlib.import_module(module)
    mask_kernels.install()
    mask_kernels.install()
    assert getattr(loaded, name) is mask_kernels.apply_bitmask


@pytest.mark.parametrize(("module", "name"), mask_kernels.TARGETS.items())
def test_stands_aside_when_it_is_not_needed(libraries: Path, module: str, name: str) -> None:
    write(libraries, module, ANYWHERE.format(name=name))
    mask_kernels.install()
    assert getattr(importlib.import_module(module), name) is not mask_kernels.apply_bitmask
    write(libraries, "llguidance.other", "x = 1\n")
    assert importlib.import_module("llguidance.other").x == 1


def test_a_kernel_of_another_name_is_left_alone(libraries: Path) -> None:
    write(libraries, "llguidance.mlx", "value = 1\n")
    mask_kernels.install()
    assert not hasattr(importlib.import_module("llguidance.mlx"), "apply_token_bitmask_kernel")


def test_an_absent_library_stays_absent(libraries: Path) -> None:
    write(libraries, "outlines_core.kernels.numpy", "")
    mask_kernels.install()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("outlines_core.kernels.mlx")


def test_import_of_the_package_installs_it_and_loads_no_library() -> None:
    code = (
        "import sys, mlx_lm\n"
        "assert any(type(f).__module__ == 'mlx_lm.integrations.mask_kernels' for f in sys.meta_path)\n"
        "assert not {'mlx.core', 'llguidance', 'outlines_core', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
