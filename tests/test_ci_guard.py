"""Where CI is set, what other tests skip for want of is a failure: a green run there has run them.

On a desk without network or compiler the same tests are skipped, and so are these.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from mlx_lm.hub import resolve
from mlx_lm.kernels import native

pytestmark = pytest.mark.skipif(not os.environ.get("CI"), reason="CI is not set: what is absent may be skipped")
CACHE = Path(os.environ.get("MLX_LM_TEST_DATA", Path.home() / ".cache" / "mlx_lm" / "test-data"))
DRAFTS = ("draft2020-12", "draft2019-09", "draft7", "draft6", "draft4")
# Imported by tests of the default run that skip without them; all are in the dependency group `test`.
PACKAGES = ("anthropic", "httpx", "jsonschema", "lark", "openai")


@pytest.mark.skipif(sys.platform != "linux", reason="MLX's own kernels are used here")
def test_native_kernels_are_loaded():
    assert native.extension() is not None, "the native kernels are not built for this Python, or not for this MLX"


def test_packaged_model_is_cached():
    assert resolve("smollm2", allow_download=False)


def test_schema_suite_is_fetched():
    tests = CACHE / "jsonschema-4.26.0" / "json" / "tests"
    missing = [draft for draft in DRAFTS if not any((tests / draft).glob("*.json"))]
    assert not missing, f"{tests} lacks {missing}; run scripts/fetch_schema_suite.py"


def test_lark_grammars_are_fetched():
    assert len(list((CACHE / "lark-1.3.1").rglob("*.lark"))) == 37, "run scripts/fetch_schema_suite.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_installed(package: str):
    assert importlib.util.find_spec(package) is not None
