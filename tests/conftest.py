"""Markers for all tests: real models only where their files are cached; in CI a test is skipped for known reasons only.

Where CI is set, a skip whose reason MAY_SKIP does not know is a failure: a green run there has run the test.
"""

import functools
import os
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# No test asserts a time: machines that run other work as well take a second for what takes a millisecond.
# Where CI is set hypothesis would try the same examples each time; ours are new ones everywhere.
settings.register_profile("untimed", deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Beginnings of the reasons that hold in CI too: what the machine is, and what `make test` does not install or fetch.
MAY_SKIP = (
    *("CI is not set", "the CPU multiplies no pairs of bfloat16", "no such permission bits", "signals", "terminals"),
    *("gemma-3-270m is not cached", "qwen2.5-coder-1.5b is not cached"),
    # Programs that run on this package: tests/system, each in an environment of its own.
    *("pip install ", "could not import 'transformers'", "could not import 'schemathesis'"),
    *("could not import 'playwright", "there is no Chromium", "needs CLAUDE_CODE_BIN"),
    *("TRL is not installed", "MLX_LM_PEER_PYTHON names no Python"),
    *(f"{program} is not installed" for program in ("lm_eval", "litellm", "langchain_openai", "llm")),
    *(("the native kernels", "needs the native kernels", "got empty parameter set") if sys.platform != "linux" else ()),
)


@functools.cache
def _cached(name: str) -> bool:
    from mlx_lm.errors import MLXLMError
    from mlx_lm.hub import resolve

    try:
        resolve(name, allow_download=False)
    except MLXLMError:
        return False
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `real_model("name")` tests when the model is not cached; no name means smollm2."""
    for item in items:
        for mark in item.iter_markers("real_model"):
            name = mark.args[0] if mark.args else "smollm2"
            if not _cached(name):
                item.add_marker(pytest.mark.skip(reason=f"{name} is not cached; make test fetches it"))


@pytest.fixture(autouse=True)
def restored_settings() -> Iterator[None]:
    """A test that leaves the kernels in another mode fails, not the ones after it."""
    native = sys.modules.get("mlx_lm.kernels.native")
    before = native.activations() if native else os.environ.get("MLX_LM_ACTIVATIONS", "exact")
    yield
    native = sys.modules.get("mlx_lm.kernels.native")
    assert not native or native.activations() == before, "the test has left the kernels in another mode"


def _must_run(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip for an unknown reason into a failure."""
    if not report.skipped or hasattr(report, "wasxfail") or not os.environ.get("CI"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix(
        "Skipped: "
    )
    if not reason.startswith(MAY_SKIP):
        report.outcome = "failed"
        report.longrepr = f"Skipped where CI is set: {reason} (tests/conftest.py lists the reasons that are known)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("slow") is None:
        _must_run(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _must_run(report)
    return report
