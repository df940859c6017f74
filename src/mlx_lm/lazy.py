"""Packages whose names are looked up when they are first used, so that importing one loads no module of it."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lookup"]


def lookup(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        homes: module of the package -> the names that come from there, separated by spaces.
    """
    found = {name: module for module, names in homes.items() for name in names.split()}

    def getattr_(name: str) -> Any:
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{found[name]}"), name)
        setattr(importlib.import_module(package), name, value)
        return value

    return getattr_
