"""The names that clients may use, and what the operator said they stand for. Pure Python; opens no file.

Contract: only the operator's settings name folders, files and ids. What a client names is looked up here and nowhere
else; with `allow_download` an unknown name that is a Hugging Face id is looked up on the hub, never as a path.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, ModelNotFoundError, RequestError
from .options import ServerSettings

__all__ = ["Catalog", "Choice", "Source"]

MAX_NAME = 256
DEFAULT_NAME = "default_model"  # what mlx-lm's clients call it


@dataclass(frozen=True)
class Source:
    """A model that can be loaded: `target` is a folder, file or id; `local` whether it may be a path."""

    id: str
    target: str
    local: bool = True
    adapter: str | None = None  # folder of an adapter that it always has


@dataclass(frozen=True)
class Choice:
    """What a client's name stands for; `adapter` is the folder of a LoRA adapter."""

    source: Source
    adapter: str | None = None
    adapter_name: str | None = None

    @property
    def id(self) -> str:
        return self.source.id if self.adapter_name is None else self.adapter_name


class Catalog:
    """All names. Raises ConfigError for settings that contradict each other."""

    def __init__(self, settings: ServerSettings) -> None:
        self.sources: dict[str, Source] = {}
        self.default: Source | None = None
        self._exact: dict[str, str] = {}
        self._patterns: dict[str, str] = {}
        self._download = settings.allow_download
        self.adapters = {name: _folder("adapters", name, target) for name, target in settings.adapters.items()}
        if settings.model_id is not None:
            self.default = Source(_shown_id(settings.model_id), settings.model_id, True, settings.adapter_path)
            self.sources[self.default.id] = self.default
            self._exact |= {DEFAULT_NAME: self.default.id, settings.model_id: self.default.id}
        for name, target in settings.models.items():
            self.sources[name] = Source(name, _folder("models", name, target))
        for alias, name in settings.aliases.items():
            self._add_alias(alias, name)
        for name in settings.pin:
            if name not in self.sources and name not in self._exact:
                raise ConfigError(f"pin names {name!r}, which is no model; there are: {self._known()}.")
        self.pinned = frozenset(self._exact.get(name, name) for name in settings.pin)
        always = self.pinned | ({self.default.id} if self.default is not None else set())
        if self.pinned and len(always) > settings.max_loaded_models:
            raise ConfigError(
                f"max_loaded_models is {settings.max_loaded_models}, which leaves no room beside the pinned models."
            )
        taken = self.adapters.keys() & self.sources.keys()
        if taken:
            raise ConfigError(f"{min(taken)!r} is the name of a model and of an adapter.")

    def _add_alias(self, alias: str, name: object) -> None:
        target = self._exact.get(name, name) if isinstance(name, str) else None
        if target not in self.sources and target not in self.adapters:
            raise ConfigError(f"aliases: {alias!r} stands for {name!r}, which is no model; there are: {self._known()}.")
        (self._patterns if any(char in alias for char in "*?") else self._exact)[alias] = str(target)

    def find(self, name: str | None, adapter: str | None = None) -> Choice:
        """What a client means. Raises ModelNotFoundError, or RequestError where a model must be named."""
        source, named = self._source(name)
        adapter = adapter or named
        if adapter is None:
            return Choice(source)
        if adapter not in self.adapters:
            known = ", ".join(sorted(self.adapters)) or "none"
            raise ModelNotFoundError(f"No adapter {adapter[:MAX_NAME]!r}; there are: {known}.")
        return Choice(source, self.adapters[adapter], adapter)

    def _source(self, name: str | None) -> tuple[Source, str | None]:
        """A model and, where the name is an adapter's, that."""
        if name is None:
            if self.default is None:
                raise RequestError(f"model must be given; there are: {self._known()}.")
            return self.default, None
        target = self._exact.get(name, name) if len(name) <= MAX_NAME else ""
        if target not in self.sources and target not in self.adapters:
            patterns = (p for p in self._patterns if len(name) <= MAX_NAME and fnmatch.fnmatchcase(name, p))
            target = self._patterns.get(next(patterns, ""), target)
        if target in self.adapters:
            return self._source(None)[0], target
        if target in self.sources:
            return self.sources[target], None
        if self._download and 0 < len(name) <= MAX_NAME:
            return Source(name, name, local=False), None
        raise ModelNotFoundError(f"The model {name[:MAX_NAME]!r} does not exist here; there are: {self._known()}.")

    def aliases_of(self, id: str) -> tuple[str, ...]:
        """Names that clients may use for a model or an adapter beside its id, in order; a pattern is no name."""
        hidden = (DEFAULT_NAME, None if self.default is None else self.default.target)
        return tuple(alias for alias, target in self._exact.items() if target == id and alias not in hidden)

    def _known(self) -> str:
        return ", ".join([*self.sources, *self.adapters]) or "none"


def _shown_id(model: str) -> str:
    """The id of a model that the operator named: of a path, its last part."""
    path = Path(model).expanduser()
    looks_local = model.startswith(("/", ".", "~")) or path.exists()
    return path.resolve().name.removesuffix(".gguf") if looks_local else model


def _folder(setting: str, name: str, target: object) -> str:
    if isinstance(target, Mapping) and isinstance(target.get("path"), str):
        target = target["path"]
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{setting}: {name!r} must be a folder, file or id, not {target!r}.")
    return target
