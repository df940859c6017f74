"""A settings class as a table: the options of a command and the documentation come from it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .values import KINDS, WORDS, Kind, is_none, shown

__all__ = ["Setting", "add_arguments", "setting", "settings_of", "settings_table"]


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: of the field; the environment has it as MLX_LM_NAME.
        kind: what its values are; None is allowed where it is the default (written "none").
        section, key: its place in the TOML file.
        flags: options of the command, without the dashes.
        also: other names, with the kind of their values: {"cache_budget_mb": "MiB"}.
        low, high, choices: what values may be.
        refused: why this release has it not; giving it is an error.
        secret: never shown, and not an option that `ps` would show.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    section: str
    key: str
    flags: tuple[str, ...]
    also: Mapping[str, Kind] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] | None = None
    refused: str | None = None
    secret: bool = False

    def names(self) -> dict[str, Kind]:
        """Every name of the setting, with the kind of value that it takes."""
        return {self.key: self.kind, self.name: self.kind, **self.also}

    def convert(self, value: Any, where: str, kind: Kind | None = None) -> Any:
        """A value from any source as the field's; ConfigError naming `where`."""
        kind = kind or self.kind
        if self.refused is not None:
            raise ConfigError(f"{where} is not supported: {self.refused}")
        if is_none(value) and (self.default is None or kind in ("list", "table")):
            return {"list": (), "table": {}}.get(kind)
        try:
            result = KINDS[kind](value)
        except (ValueError, TypeError) as error:
            shown = "" if self.secret else f", not {str(value)[:80]!r}"
            raise ConfigError(f"{where} must be {WORDS[kind]}{shown}.") from error
        self._check(result, where)
        return result

    def _check(self, value: Any, where: str) -> None:
        if self.choices is not None and value not in self.choices:
            raise ConfigError(f"{where} must be one of {', '.join(map(str, self.choices))}, not {value!r}.")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.low is not None and value < self.low:
                raise ConfigError(f"{where} must be at least {self.low:g}, not {value}.")
            if self.high is not None and value > self.high:
                raise ConfigError(f"{where} must be at most {self.high:g}, not {value}.")


def setting(
    default: Any,
    help: str,
    *,
    kind: Kind = "text",
    section: str = "server",
    key: str | None = None,
    flags: Sequence[str] | None = None,
    **limits: Any,
) -> Any:
    """A field of a settings class; see `Setting`. Without `flags` the option is the name with dashes."""
    about = {"kind": kind, "help": help, "section": section, "key": key, "flags": flags, **limits}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=about)
    return field(default=default, metadata=about)


def settings_of(cls: type) -> tuple[Setting, ...]:
    """The table of a settings class."""
    rows = []
    for column in dataclasses.fields(cls):
        about = dict(column.metadata)
        default = {} if column.default is dataclasses.MISSING else column.default
        flags = about.pop("flags")
        flags = (column.name.replace("_", "-"),) if flags is None else tuple(flags)
        key = about.pop("key") or column.name
        rows.append(Setting(name=column.name, default=default, key=key, flags=flags, **about))
    return tuple(rows)


def add_arguments(parser: argparse.ArgumentParser, cls: type) -> None:
    """Options for all settings, grouped by section; what is not given is absent from the namespace."""
    groups: dict[str, Any] = {}
    for row in settings_of(cls):
        if row.section not in groups:
            groups[row.section] = parser.add_argument_group(row.section)
        if not row.flags:
            continue
        how: dict[str, Any] = {"dest": row.name, "default": argparse.SUPPRESS}
        how["help"] = argparse.SUPPRESS if row.refused else _percent(row.help + _shown_default(row))
        if row.kind == "bool":
            how["action"] = argparse.BooleanOptionalAction
        else:
            how["metavar"] = {"int": "N", "float": "X", "bytes": "SIZE", "table": "NAME=VALUE"}.get(row.kind, "TEXT")
        if row.refused is not None:
            how |= {"action": "store", "nargs": "?", "const": "given"}
            how.pop("metavar", None)
        groups[row.section].add_argument(*(f"--{flag}" for flag in row.flags), **how)
        for name in row.also:
            flag = name.replace("_", "-")
            if flag not in row.flags:
                hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
                groups[row.section].add_argument(f"--{flag}", dest=name, **hidden)


def settings_table(cls: type) -> str:
    """The table as Markdown, a part for each section."""
    lines: list[str] = []
    section = None
    for row in settings_of(cls):
        if row.section != section:
            section = row.section
            lines += ["", f"### [{section}]", "", "| Setting | Option | Default | Meaning |", "|---|---|---|---|"]
        options = " ".join(
            f"`--{flag}`" for flag in dict.fromkeys((*row.flags, *(n.replace("_", "-") for n in row.also)))
        )
        meaning = f"Refused: {row.refused}" if row.refused else f"{row.help}{_range(row)}"
        default = f"`{shown(row.default)}`"
        lines.append(f"| `{row.key}` | {options or '-'} | {default} | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines).strip() + "\n"


def _shown_default(row: Setting) -> str:
    return "" if row.default in (None, (), {}) or row.kind == "bool" else f" (default: {shown(row.default)})"


def _range(row: Setting) -> str:
    if row.choices is not None:
        return f" One of {', '.join(f'`{choice}`' for choice in row.choices)}."
    if row.low is None:
        return ""
    return f" At least {row.low:g}." if row.high is None else f" {row.low:g} to {row.high:g}."


def _percent(text: str) -> str:
    return text.replace("%", "%%")
