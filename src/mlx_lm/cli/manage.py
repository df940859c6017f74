"""`mlx_lm.manage`: list, inspect, describe and delete the models that are cached on this machine; saved prompts too.

Contract: results go to stdout (one JSON document with --json), messages and questions to stderr; exit status 0, or 1
with one line that says what is wrong. What the actions on one model or one folder do is in `describe` and `cache`.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_lm.errors import MLXLMError, ModelNotFoundError

from . import cache, describe
from .sizes import byte_count, size_text

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.manage", description="List, inspect and delete cached models.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--scan", action="store_true", help="list cached models (the default)")
    action.add_argument("--inspect", metavar="MODEL", help="files, sizes, type, quantization and license of a model")
    action.add_argument(
        "--delete", nargs="?", const="", metavar="MODEL", help="delete one cached model, or all that match --pattern"
    )
    action.add_argument(
        "--describe", metavar="MODEL", help="layers, parameters, bits per weight and bytes of the KV cache of a model"
    )
    action.add_argument(
        "--cache",
        choices=("ls", "check", "prune", "rm"),
        help="the prompt cache on disk (--cache-dir): list, verify, shrink to --cache-bytes, delete",
    )
    parser.add_argument(
        "--pattern", default=None, help="only models whose name contains this (default for --delete: mlx)"
    )
    parser.add_argument(
        "--cache-dir", "--disk-prompt-cache-dir", metavar="DIR", help="folder of the prompt cache, as the server has it"
    )
    parser.add_argument(
        "--cache-bytes", type=byte_count, metavar="SIZE", help="what --cache prune leaves, as in 500MB or 4GiB"
    )
    parser.add_argument(
        "--namespace", metavar="HEX", help="--cache rm: only this one; --cache prune: delete all others first"
    )
    parser.add_argument("--repair", action="store_true", help="--cache check: delete blocks that are damaged")
    parser.add_argument("--yes", "-y", action="store_true", help="delete without asking")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _entry_dict(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "source": entry.source,
        "bytes": entry.nbytes,
        "files": entry.files,
        "revision": entry.revision,
        "modified": entry.modified,
        "complete": entry.complete,
        "folder": str(entry.folder),
    }


def _print_entries(entries: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_entry_dict(entry) for entry in entries], indent=2))
        return
    width = max([len(entry.name) for entry in entries], default=5)
    print(f"{'MODEL':{width}}  {'SIZE':>9}  {'FILES':>5}  {'SOURCE':8}  MODIFIED")
    for entry in entries:
        day = time.strftime("%Y-%m-%d", time.localtime(entry.modified))
        note = "" if entry.complete else "  (incomplete)"
        print(f"{entry.name:{width}}  {size_text(entry.nbytes):>9}  {entry.files:>5}  {entry.source:8}  {day}{note}")
    print(f"{len(entries)} models, {size_text(sum(entry.nbytes for entry in entries))}", file=sys.stderr)


def _scan(pattern: str, *, as_json: bool) -> None:
    from mlx_lm.hub.cache import scan

    _print_entries(scan(pattern), as_json=as_json)


def _facts(model: str) -> dict[str, Any]:
    from mlx_lm.hub import cache as hub_cache
    from mlx_lm.hub.packaged_table import PACKAGED

    if Path(model).expanduser().exists() and model not in PACKAGED:
        return {"name": model, "source": "local", **hub_cache.inspect(Path(model).expanduser())}
    entry = hub_cache.find(model)
    facts = {**_entry_dict(entry), **hub_cache.inspect(entry.folder)}
    if model in PACKAGED:
        facts |= {"title": PACKAGED[model].title, "license": PACKAGED[model].license, "note": PACKAGED[model].note}
    return facts


_INSPECT_LINES = (
    *("name", "title", "source", "path", "revision", "format", "architecture", "model_type"),
    *("license", "note"),
)


def _inspect(model: str, *, as_json: bool) -> None:
    facts = _facts(model)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key in (
        "name",
        "title",
        "source",
        "path",
        "revision",
        "format",
        "architecture",
        "model_type",
        "license",
        "note",
    ):
        if facts.get(key):
            print(f"{key:13} {facts[key]}")
    for key in ("quantization", "storage"):
        if facts.get(key):
            print(f"{key:13} {', '.join(f'{name} {value}' for name, value in facts[key].items())}")
    print(f"{'size':13} {size_text(facts['bytes'])} in {len(facts['files'])} files")
    for file in facts["files"]:
        print(f"  {size_text(file['bytes']):>9}  {file['name']}")
    if "problem" in facts:
        print(f"problem: {facts['problem']}", file=sys.stderr)


def _confirmed(count: int, nbytes: int) -> bool:
    print(f"Delete {count} models ({size_text(nbytes)})? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(model: str, pattern: str | None, *, yes: bool, as_json: bool) -> None:
    from mlx_lm.hub import cache as hub_cache

    entries = [hub_cache.find(model)] if model else hub_cache.scan("mlx" if pattern is None else pattern)
    if not entries:
        raise ModelNotFoundError(f"No cached model has {'mlx' if pattern is None else pattern!r} in its name.")
    if not yes:
        for entry in entries:
            print(f"  {entry.name}  {size_text(entry.nbytes)}", file=sys.stderr)
        if not _confirmed(len(entries), sum(entry.nbytes for entry in entries)):
            print("Nothing deleted.", file=sys.stderr)
            entries = []
    freed = sum(hub_cache.delete(entry) for entry in entries)
    if as_json:
        print(json.dumps({"deleted": [entry.name for entry in entries], "bytes": freed}))
    elif entries:
        print(f"Deleted {len(entries)} models, freed {size_text(freed)}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.inspect is not None:
            _inspect(args.inspect, as_json=args.json)
        elif args.describe is not None:
            describe.run(args.describe, as_json=args.json)
        elif args.cache is not None:
            return cache.run(args)
        elif args.delete is not None:
            _delete(args.delete, args.pattern, yes=args.yes, as_json=args.json)
        else:
            _scan(args.pattern or "", as_json=args.json)
    except MLXLMError as error:
        print(f"mlx_lm.manage: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
