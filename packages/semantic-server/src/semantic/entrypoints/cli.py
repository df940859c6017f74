"""`semantic serve`, `version`, `config`, `tune`: the former commands over mlx_lm's server.

`python -m semantic.entrypoints.cli serve` listens on port 8000 of this machine. Exit status 2 is a wrong setting.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlx_lm.errors import ConfigError, MLXLMError
from mlx_lm.settings import read_settings
from pydantic import ValidationError

from ..adapters.config.settings import SemanticSettings

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="semantic", description="Serve a model to Claude Code and other clients.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", add_help=False, help="start the server")
    serve.add_argument("--help", action="help", help="show this help and exit")
    serve.add_argument("--host", "-h", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", "-p", type=int, help="port to listen on (default: 8000)")
    serve.add_argument("--model", "-m", help="model to serve: folder, GGUF file, Hugging Face id or packaged name")
    serve.add_argument("--workers", "-w", type=int, help="processes; one holds the model, so only 1 is possible")
    serve.add_argument("--log-level", "-l", help="DEBUG, INFO, WARNING or ERROR (default: INFO)")
    serve.add_argument("--reload", action="store_true", help="not supported: the model would be loaded again and again")
    commands.add_parser("version", help="print the version")
    commands.add_parser("config", help="print the settings that apply")
    commands.add_parser("tune", help="not supported; see mlx_lm.benchmark")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        match args.command:
            case "version":
                print(f"semantic-server {_version('semantic-server')} (mlx-lm {_version('mlx-lm')})")
            case "config":
                _print_config(SemanticSettings())
            case "tune":
                raise ConfigError("tune is not supported: measure with `mlx_lm.benchmark` and set what you choose.")
            case _:
                _serve(args)
    except (ValidationError, ConfigError) as error:
        print(f"semantic: {error}", file=sys.stderr)
        return 2
    except MLXLMError as error:
        print(f"semantic: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(args: argparse.Namespace) -> None:
    if args.reload:
        raise ConfigError("--reload is not supported: the model would be loaded again at every change.")
    given = {"host": args.host, "port": args.port, "workers": args.workers, "log_level": args.log_level}
    server = {name: value for name, value in given.items() if value is not None}
    settings = SemanticSettings(server=server, mlx={} if args.model is None else {"model_id": args.model})
    logging.basicConfig(
        level=settings.server.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )

    settings.fit_context(_positions(settings.mlx.model_id))

    from mlx_lm.server.options import ServerSettings

    from ..application.batch_engine import serve

    # Nothing else is read: what mlx_lm's own environment says is meant for its own command.
    asyncio.run(serve(read_settings(ServerSettings, settings.to_server(), environ={}).values))


def _positions(model: str) -> int | None:
    """Positions that the model's files allow; None where they are not here yet or do not say."""
    from mlx_lm import hub
    from mlx_lm.hub.gguf import read
    from mlx_lm.models.load import load_config

    try:
        files = hub.resolve(model, allow_download=False)
    except MLXLMError:
        return None
    if files.gguf is None:
        return load_config(files.folder).get("max_position_embeddings")
    metadata = read(files.gguf).metadata
    return metadata.get(f"{metadata.get('general.architecture')}.context_length")


def _print_config(settings: SemanticSettings) -> None:
    parts: dict[str, Any] = {"mlx": settings.mlx, "agent": settings.agent, "server": settings.server}
    for section, values in parts.items():
        print(f"[{section}]")
        for name, value in values.model_dump().items():
            print(f"{name} = {_toml(value)}")
    print(f"# {len(settings.api_keys)} client keys")


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
