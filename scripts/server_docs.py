"""Writes the table of the server's settings into docs/server.md. Run it after a change of server/options.py."""

import re
from pathlib import Path

from mlx_lm.server.options import ServerSettings
from mlx_lm.settings import settings_table

DOCS = Path(__file__).parents[1] / "docs" / "server.md"


def main() -> None:
    """Replaces what stands between the two comments."""
    table = settings_table(ServerSettings).strip()
    text = DOCS.read_text(encoding="utf-8")
    pattern = r"(<!-- settings: .*? -->\n).*?(\n<!-- end -->)"
    DOCS.write_text(re.sub(pattern, lambda m: m[1] + table + m[2], text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
