"""Markers for all tests: real models only where their files are cached."""

import functools

import pytest
from hypothesis import HealthCheck, settings

# No test asserts a time: machines that run other work as well take a second for what takes a millisecond.
# Where CI is set hypothesis would try the same examples each time; ours are new ones everywhere.
settings.register_profile("untimed", deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


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
