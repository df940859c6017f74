"""Every test leaves the extension's settings as it found them; with `isa` it runs on each instruction set."""

from collections.abc import Iterator

import pytest

from mlx_lm.kernels import native

EXT = native.extension()


@pytest.fixture(autouse=True)
def restored_settings() -> Iterator[None]:
    if EXT is None:
        yield
        return
    isa, threads, mode = EXT.isa(), EXT.num_threads(), EXT.activations()
    yield
    EXT.set_isa(isa)
    EXT.set_num_threads(threads)
    EXT.set_activations(mode)


@pytest.fixture(params=EXT.supported_isas() if EXT is not None else ["plain"])
def isa(request: pytest.FixtureRequest, restored_settings: None) -> str:
    """The name of the instruction set in use; "plain" without native kernels."""
    if EXT is not None:
        EXT.set_isa(request.param)
    return request.param
