"""Where CI is set, what other tests skip for want of is a failure: a green run there has run them.

On a desk without network or compiler the same tests are skipped, and so are these. Reasons that nobody has thought of
are caught by tests/conftest.py, which knows those that hold in CI too.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_lm.hub import resolve
from mlx_lm.kernels import native

in_ci = pytest.mark.skipif(not os.environ.get("CI"), reason="CI is not set: what is absent may be skipped")
CACHE = Path(os.environ.get("MLX_LM_TEST_DATA", Path.home() / ".cache" / "mlx_lm" / "test-data"))
DRAFTS = ("draft2020-12", "draft2019-09", "draft7", "draft6", "draft4")
# Imported by tests of the default run that skip without them; all are in the dependency group `test`.
PACKAGES = ("anthropic", "httpx", "jsonschema", "lark", "openai")


@in_ci
@pytest.mark.skipif(sys.platform != "linux", reason="the native kernels are for Linux")
def test_native_kernels_are_loaded():
    assert native.extension() is not None, "the native kernels are not built for this Python, or not for this MLX"


@in_ci
def test_packaged_model_is_cached():
    assert resolve("smollm2", allow_download=False)


@in_ci
def test_schema_suite_is_fetched():
    tests = CACHE / "jsonschema-4.26.0" / "json" / "tests"
    missing = [draft for draft in DRAFTS if not any((tests / draft).glob("*.json"))]
    assert not missing, f"{tests} lacks {missing}; run scripts/fetch_schema_suite.py"


@in_ci
def test_lark_grammars_are_fetched():
    assert len(list((CACHE / "lark-1.3.1").rglob("*.lark"))) == 37, "run scripts/fetch_schema_suite.py"


@in_ci
@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_installed(package: str):
    assert importlib.util.find_spec(package) is not None


@pytest.mark.parametrize(("ci", "code", "said"), [("1", 1, "Skipped where CI is set"), ("", 0, "SKIPPED")])
def test_a_skip_for_an_unknown_reason_fails_in_ci(tmp_path: Path, ci: str, code: int, said: str):
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_one.py").write_text(
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='the moon')\ndef test_a(): pass\n"
        "@pytest.mark.skipif(True, reason='TRL is not installed')\ndef test_b(): pass\n"
        "@pytest.mark.parametrize('x', [])\ndef test_c(x): pass\n"
        "@pytest.mark.xfail\ndef test_d(): assert False\n"
    )
    (tmp_path / "test_two.py").write_text("import pytest\npytest.importorskip('none_such')\n")
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "--continue-on-collection-errors", "."]
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, "CI": ci}, capture_output=True, text=True)
    assert ran.returncode == code and said in ran.stdout, ran.stdout
    if ci:
        assert "1 skipped, 1 xfailed, 3 errors" in ran.stdout, ran.stdout
