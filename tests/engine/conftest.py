"""Tiny models as fixtures."""

import pytest
from tiny_models import MODELS, tiny


@pytest.fixture(params=list(MODELS))
def any_model(request):
    return tiny(request.param)


@pytest.fixture
def full_model():
    return tiny("full")
