"""From the command line, the environment, a .env file and a TOML file to the values of a settings class."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import ConfigError
from .table import Setting, settings_of

__all__ = ["Settings", "read_env_file", "read_settings"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings(Generic[_T]):
    """Values, and where each that is not a default came from."""

    values: _T
    sources: Mapping[str, str]


def read_settings(
    cls: type[_T],
    cli: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    toml: Path | None = None,
) -> Settings[_T]:
    """All settings, each from the nearest source that has it.

    Args:
        cli: what the command line gave, by name.
        environ: the environment; None is the process's.
        env_file, toml: files to read; None for none.

    Raises ConfigError for a wrong value, an unknown key of the TOML file or an unreadable file.
    """
    from_toml = {} if toml is None else _read_toml(cls, toml)
    from_file = {} if env_file is None else read_env_file(env_file)
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for row in settings_of(cls):
        candidates = (
            *((cli or {}, name, _option(row, name), kind) for name, kind in row.names().items()),
            *((environ, _variable(name), "the environment", kind) for name, kind in row.names().items()),
            *((from_file, _variable(name), str(env_file), kind) for name, kind in row.names().items()),
            *((from_toml, f"{row.section}.{name}", str(toml), kind) for name, kind in row.names().items()),
        )
        for source, key, where, kind in candidates:
            if key in source:
                place = where if where.startswith("--") else f"{key} in {where}"
                values[row.name] = row.convert(source[key], place, kind)
                sources[row.name] = place
                break
    return Settings(cls(**values), sources)


def _variable(name: str) -> str:
    return f"MLX_LM_{name.upper()}"


def _option(row: Setting, name: str) -> str:
    flag = row.flags[0] if row.flags and name in (row.name, row.key) else name
    return f"--{flag.replace('_', '-')}"


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines of a .env file; comments, `export` and quotes as shells have them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
            raise ConfigError(f"{path}, line {number}: expected NAME=VALUE.")
        value = value.strip()
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
        values[name.strip()] = value[1:-1] if quoted else re.split(r"\s+#", value, maxsplit=1)[0]
    return values


def _read_toml(cls: type, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    known: dict[str, list[str]] = {}
    for row in settings_of(cls):
        known.setdefault(row.section, []).extend(row.names())
    values: dict[str, Any] = {}
    for section, entries in document.items():
        if section not in known:
            continue  # other programs may keep their sections in the same file
        if not isinstance(entries, dict):
            raise ConfigError(f"{section} in {path} must be a section: [{section}].")
        for key, value in entries.items():
            if key not in known[section]:
                near = difflib.get_close_matches(key, known[section], n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known[section]))}."
                raise ConfigError(f"{section}.{key} in {path} is no setting; {hint}")
            values[f"{section}.{key}"] = value
    return values
