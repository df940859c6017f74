"""`mlx_lm.server`: OpenAI's and Anthropic's protocols over HTTP.

Settings come from the command line, the environment (MLX_LM_...), a .env file and a TOML file, in that order; the table
is in docs/server.md.
"""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..settings import Settings, add_arguments, read_settings
from .app import main as run_main

__all__ = ["main"]

_TOML = Path("config/default.toml")
_ENV = Path(".env")


def _parser() -> argparse.ArgumentParser:
    from ..server.options import ServerSettings

    parser = argparse.ArgumentParser(
        prog="mlx_lm.server",
        description="Serve models over HTTP, in OpenAI's and Anthropic's protocols.",
        epilog="Every option can also be set as MLX_LM_NAME in the environment or a .env file, or in a TOML file.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"TOML file of settings (default: {_TOML}, if it exists)")
    parser.add_argument("--env-file", metavar="FILE", help=f"file of NAME=VALUE lines (default: {_ENV}, if it exists)")
    parser.add_argument("--describe", action="store_true", help="print what would be served and its memory, and end")
    add_arguments(parser, ServerSettings)
    return parser


def _file(given: str | None, usual: Path) -> Path | None:
    if given is None:
        return usual if usual.is_file() else None
    path = Path(given).expanduser()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file.")
    return path


def _settings(args: argparse.Namespace) -> Settings[Any]:
    from ..server.options import ServerSettings

    given = {k: v for k, v in vars(args).items() if k not in ("config", "env_file", "describe", "debug")}
    return read_settings(ServerSettings, given, env_file=_file(args.env_file, _ENV), toml=_file(args.config, _TOML))


def _run(args: argparse.Namespace) -> int:
    found = _settings(args)
    settings = found.values
    level = "DEBUG" if args.debug else settings.log_level
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel("WARNING" if level == "INFO" else level)
    for name, source in found.sources.items():
        logging.getLogger(__name__).info("%s from %s", name, source)
    from ..server.run import serve, with_default_model
    from ..server.security import check_bind

    check_bind(settings)
    settings = with_default_model(settings)
    if args.describe:
        from ..server.describe import describe

        print(describe(settings))
        return 0
    asyncio.run(serve(settings))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return run_main(_parser(), _run, argv)
