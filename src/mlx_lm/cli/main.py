"""`mlx_lm`: lists the commands, and starts the one that is named."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from .app import COMMANDS, say

__all__ = ["main"]


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mlx_lm COMMAND [options]",
            "",
            "Generate text with language models on MLX.",
            "",
            "commands:",
            *lines,
            "",
            "mlx_lm COMMAND --help shows the options of a command; mlx_lm --version the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: the command's; 0 after help; 2 when no command or an unknown one is named."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else None
    if name in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if name in ("-V", "--version", "version"):
        from .. import __version__

        print(f"mlx_lm {__version__}")
        return 0
    if name is None:
        say(_overview())
        return 2
    command = name.replace("-", "_")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}."
        say(f"mlx_lm: unknown command {name!r}; {hint}")
        return 2
    return importlib.import_module(f".{command}", __package__).main(words[1:])
