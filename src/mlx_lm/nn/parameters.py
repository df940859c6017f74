"""A model's parameters as a flat, typed list, and under other names."""

from typing import Any, TypeVar, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

__all__ = ["flat_parameters", "leaf_modules", "named"]

_Block = TypeVar("_Block", bound=nn.Module)


def flat_parameters(module: nn.Module) -> list[tuple[str, mx.array]]:
    """(path, array) of every parameter."""
    return cast("list[tuple[str, mx.array]]", tree_flatten(module.parameters()))


def leaf_modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, module) of every module that holds no other."""
    found = tree_flatten(module.leaf_modules(), is_leaf=nn.Module.is_module)
    return cast("list[tuple[str, nn.Module]]", found)


def named(block: type[_Block], **names: Any) -> type[_Block]:
    """A subclass of `block` in which its class attributes, most of them names of parameters, are these."""
    return cast("type[_Block]", type(block.__name__, (block,), names))
