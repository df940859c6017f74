"""Writes docs/api-openai.md from the field tables of the server: `python scripts/api_tables.py [--check]`."""

import sys
from pathlib import Path

from mlx_lm.server.docs import OPENAI_TABLES, markdown

PATH = Path(__file__).parent.parent / "docs" / "api-openai.md"
INTRODUCTION = """What the server does with every field that clients of OpenAI, vLLM and mlx-lm send. *Honoured*: it
does what its documentation says. *Refused*: status 400, with the field's name in `error.param`; `null` always passes.
*Ignored*: accepted, and without effect on purpose. A field that is in no table is ignored and named in the reply's
`x-ignored-fields` header.

This file is written by `scripts/api_tables.py` from the tables that read the requests."""


def text() -> str:
    """The document."""
    return markdown("OpenAI's endpoints, field by field", INTRODUCTION, OPENAI_TABLES)


def main() -> None:
    """Writes the document, or with --check fails if it is not as it would be written."""
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PATH.read_text() == text() else f"{PATH.name} is stale: run scripts/api_tables.py")
    PATH.write_text(text())


if __name__ == "__main__":
    main()
