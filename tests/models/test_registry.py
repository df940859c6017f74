"""Model types to families: every file answers, unknown types are refused with the nearest name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

from mlx_lm.errors import UnsupportedModelError
from mlx_lm.models import families, family, get_classes
from mlx_lm.models.base import CausalLM
from mlx_lm.models.config import BaseModelArgs
from mlx_lm.models.registry import MODEL_REMAPPING

FOUNDATION = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3_text", "phi3", "olmo2", "mixtral"}
FOUNDATION |= {"qwen3_moe", "gpt_oss"}


def test_families_are_listed() -> None:
    assert set(families()) >= FOUNDATION
    assert families() == sorted(families())


@pytest.mark.parametrize("name", families())
def test_every_family_has_its_public_classes(name: str) -> None:
    module = importlib.import_module(f"mlx_lm.models.{name}")
    assert issubclass(module.Model, CausalLM)
    assert issubclass(module.ModelArgs, BaseModelArgs)
    assert dataclasses.is_dataclass(module.ModelArgs)
    assert module.__doc__


def test_family_files_are_short() -> None:
    """A usual family takes at most 60 lines; what a family brings of its own may take more."""
    modules = [importlib.import_module(f"mlx_lm.models.{name}") for name in families()]
    lengths = {m.__name__: len(Path(inspect.getsourcefile(m) or "").read_text().splitlines()) for m in modules}
    assert max(lengths.values()) <= 250
    assert sum(n > 60 for n in lengths.values()) <= len(lengths) // 3


@pytest.mark.parametrize("other", sorted(MODEL_REMAPPING))
def test_remapped_types_lead_to_a_family(other: str) -> None:
    assert MODEL_REMAPPING[other].replace("-", "_") in families()
    assert family(other) is family(MODEL_REMAPPING[other])


@pytest.mark.parametrize(
    ("wrong", "near"), [("qwen3moe", "qwen3_moe"), ("lama", "llama"), ("gemma-3-text", "gemma3_text")]
)
def test_unknown_type_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"'{wrong}' is not supported.*{near}"):
        family(wrong)


@pytest.mark.parametrize(
    "name", ["base", "config", "experts", "weights", "registry", "build", "dense", "../llama", "llama.evil", "os", ""]
)
def test_what_is_no_family_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError):
        get_classes({"model_type": name})


@pytest.mark.parametrize("value", [None, 3, ["llama"], {"a": 1}, True])
def test_model_type_must_be_a_name(value: object) -> None:
    with pytest.raises(UnsupportedModelError, match="model_type"):
        get_classes({"model_type": value})
    with pytest.raises(UnsupportedModelError, match="model_type"):
        get_classes({})
