"""What the user types in `mlx_lm.chat`: messages of one or more lines, and commands.

A line that ends with a backslash goes on in the next; a line that begins with three double quotes opens a block
that the next three close. On a terminal the line can be edited, and a pasted text with line breaks is one message.
"""

import sys
from dataclasses import dataclass

__all__ = ["COMMANDS", "HELP", "Command", "Reader", "parse"]

COMMANDS = {
    "help": ("", "show this list (also: h)"),
    "reset": ("", "forget the conversation; the system prompt stays (also: r)"),
    "system": ("TEXT", "set the system prompt; without TEXT, remove it"),
    "undo": ("", "take back the last message and its answer"),
    "retry": ("", "answer the last message again"),
    "save": ("FILE", "save the conversation"),
    "load": ("FILE", "go on with a saved conversation"),
    "quit": ("", "leave (also: q, Ctrl-D)"),
}
HELP = "\n".join(
    [
        *(f"  {'/' + name + ' ' + argument:15} {what}" for name, (argument, what) in COMMANDS.items()),
        '  A line that ends with \\ goes on in the next; """ opens and closes a text of several lines.',
        "  Ctrl-C stops an answer and keeps what was written; at the prompt it leaves. //text sends /text.",
    ]
)
_LETTERS = {"q": "quit", "r": "reset", "h": "help"}
_BLOCK = '"""'


@dataclass(frozen=True)
class Command:
    """A command and what follows its name."""

    name: str
    argument: str


def parse(line: str) -> Command | str:
    """A command, or the message that the line is."""
    if line.strip() in _LETTERS:
        return Command(_LETTERS[line.strip()], "")
    if line.startswith("//"):
        return line[1:]
    if line.startswith("/"):
        name, _, argument = line[1:].partition(" ")
        return Command(name.strip(), argument.strip())
    return line


class Reader:
    """Reads messages from the terminal, or from whatever stdin is."""

    def __init__(self) -> None:
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if self._terminal:
            try:
                import readline  # editing and history in input()

                readline.set_auto_history(True)
            except ImportError:
                pass

    def read(self) -> str:
        """The next message, its line breaks kept; raises EOFError at the end."""
        first = self._line(">> ")
        if first.startswith(_BLOCK):
            return self._block(first[len(_BLOCK) :])
        lines = [first]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            try:
                lines.append(self._line(".. "))
            except EOFError:
                break
        return "\n".join(lines)

    def _block(self, line: str) -> str:
        lines = []
        while not line.rstrip().endswith(_BLOCK):
            lines.append(line)
            try:
                line = self._line(".. ")
            except EOFError:
                return "\n".join(lines).strip("\n")
        lines.append(line.rstrip()[: -len(_BLOCK)])
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        if self._terminal:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")
