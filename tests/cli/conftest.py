"""Tiny models in folders, as a user has them."""

from collections.abc import Callable

import pytest
from model_folders import model_maker


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`make_model(kind, template=True, seed=7)` -> the model's folder; made once for each."""
    return model_maker(tmp_path_factory.mktemp("models"))


@pytest.fixture
def tiny(make_model: Callable[..., str]) -> str:
    """Folder of a tiny llama."""
    return make_model()
