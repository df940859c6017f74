"""A model's parameters as a flat, typed list."""

from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

__all__ = ["flat_parameters", "leaf_modules"]


def flat_parameters(module: nn.Module) -> list[tuple[str, mx.array]]:
    """(path, array) of every parameter."""
    return cast("list[tuple[str, mx.array]]", tree_flatten(module.parameters()))


def leaf_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, module) of every module that holds no other."""
    found = tree_flatten(module.leaf_modules(), is_leaf=nn.Module.is_module)
    return cast("list[tuple[str, nn.Module]]", found)
