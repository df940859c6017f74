"""Writes the field tables into docs/api-anthropic.md: `python scripts/api_anthropic.py [--check]`."""

import sys
from pathlib import Path

from mlx_lm.server.docs import ANTHROPIC_TABLES, markdown

PATH = Path(__file__).parent.parent / "docs" / "api-anthropic.md"
BEGIN = "# Field by field\n"
INTRODUCTION = """*Honoured*: it does what the vendor's documentation says. *Refused*: status 400, the message names
the field; `null` always passes. *Ignored*: accepted, and without effect on purpose. A field that is in no table is
ignored and named in the reply's `x-ignored-fields` header, or refused where the operator sets `strict_fields`.

The tables are written by `scripts/api_anthropic.py` from those that read the requests."""


def fresh(document: str) -> str:
    """The document with its tables as they would be written now."""
    return document[: document.index(BEGIN)] + markdown("Field by field", INTRODUCTION, ANTHROPIC_TABLES)


def main() -> None:
    """Writes the document, or with --check fails if it is not as it would be written."""
    written = PATH.read_text()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if written == fresh(written) else f"{PATH.name} is stale: run scripts/api_anthropic.py")
    PATH.write_text(fresh(written))


if __name__ == "__main__":
    main()
