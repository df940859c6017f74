"""The committed table of families names every family that has a reference."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_family_is_in_the_table() -> None:
    spec = importlib.util.spec_from_file_location("family_table", ROOT / "scripts" / "family_table.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.absent() == []
