"""Tiny models in folders, as a user has them."""

from collections.abc import Callable

import pytest
from model_folders import write_model


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`make_model(kind, template=True, seed=7)` -> the model's folder; made once for each."""
    made: dict[tuple[str, bool, int], str] = {}

    def make(kind: str = "llama", *, template: bool = True, seed: int = 7) -> str:
        key = (kind, template, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / f"{kind}-{template}-{seed}"
            made[key] = str(write_model(folder, kind, template=template, seed=seed))
        return made[key]

    return make


@pytest.fixture
def tiny(make_model: Callable[..., str]) -> str:
    """Folder of a tiny llama."""
    return make_model()
