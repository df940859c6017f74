"""`mlx_lm.manage --cache ls|check|prune|rm`: the folder in which prompt caches outlive the server.

`ls` and a `check` without repair only read, so they work beside a running server; the others need the folder to be
nobody's. The exit status of `check` is 1 when a block is damaged and stays.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CacheStateError, ModelNotFoundError, RequestError
from .sizes import size_text

__all__ = ["run"]

_NO_LIMIT = 1 << 63


def run(args: argparse.Namespace) -> int:
    """Does `args.cache` in `args.cache_dir`; returns the exit status.

    Raises RequestError for options that are missing, ModelNotFoundError without such a folder, CacheStateError when
    another process owns it.
    """
    if args.cache_dir is None:
        raise RequestError("--cache needs --cache-dir, the folder that the server has as --disk-prompt-cache-dir.")
    folder = Path(args.cache_dir).expanduser()
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder}: no such folder.")
    if args.cache == "prune" and args.cache_bytes is None and args.namespace is None:
        raise RequestError("--cache prune needs --cache-bytes SIZE (what to leave) or --namespace HEX (what to keep).")
    namespace = _namespace(args.namespace)
    with _open(folder, write=args.cache in ("prune", "rm") or args.repair) as store:
        if args.cache == "ls":
            _list(store, as_json=args.json)
        elif args.cache == "check":
            return _check(store, repair=args.repair, as_json=args.json)
        elif args.cache == "prune":
            budget = _NO_LIMIT if args.cache_bytes is None else args.cache_bytes
            files, freed = store.prune(budget, namespace)
            _removed(files, freed, args.json)
        elif args.yes or _confirmed(store, namespace):
            files, freed = store.remove(namespace)
            _removed(files, freed, args.json)
    return 0


def _namespace(text: str | None) -> bytes | None:
    try:
        found = None if text is None else bytes.fromhex(text)
    except ValueError:
        found = b""
    if found is not None and len(found) != 16:
        raise RequestError(f"--namespace must be 32 hexadecimal digits as --cache ls shows them, not {text!r}.")
    return found


def _open(folder: Path, *, write: bool) -> Any:
    from ..engine.prefix.disk import DiskStore

    store = DiskStore(folder, budget_bytes=_NO_LIMIT, read_only=not write)
    if store.problem is not None:
        raise CacheStateError(f"{store.problem}.")
    if write and store.read_only:
        store.close()
        raise CacheStateError(
            f"{folder}: in use by another process (see its file 'lock'), or not writable. Stop it first."
        )
    return store


def _list(store: Any, *, as_json: bool) -> None:
    rows = _rows(store.entries())
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'NAMESPACE':32}  {'BLOCKS':>7}  {'LONGEST':>7}  {'SIZE':>9}  LAST USED")
    for row in rows:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["last_used"]))
        size = size_text(row["bytes"])
        print(f"{row['namespace']:32}  {row['blocks']:>7}  {row['longest_chain']:>7}  {size:>9}  {day}")
    total = size_text(sum(row["bytes"] for row in rows))
    print(f"{sum(row['blocks'] for row in rows)} blocks, {total}", file=sys.stderr)


def _rows(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """One row for each namespace, the one used last first."""
    spaces: dict[bytes, dict[bytes, Any]] = {}
    for entry in entries:
        spaces.setdefault(entry.name.namespace, {})[entry.name.key] = entry
    rows = [
        {
            "namespace": namespace.hex(),
            "blocks": len(held),
            "longest_chain": max(_depths(held).values()),
            "bytes": sum(entry.size for entry in held.values()),
            "last_used": max(entry.when for entry in held.values()),
        }
        for namespace, held in spaces.items()
    ]
    return sorted(rows, key=lambda row: -row["last_used"])


def _depths(held: dict[bytes, Any]) -> dict[bytes, int]:
    """For each block of a namespace: how many blocks its chain has up to it."""
    depths: dict[bytes, int] = {}
    for key in held:
        walk: list[bytes] = []
        at: bytes | None = key
        while at is not None and at in held and at not in depths and len(walk) <= len(held):
            walk.append(at)
            at = held[at].name.parent
        depth = depths.get(at, 0) if at is not None else 0
        for at in reversed(walk):
            depth += 1
            depths[at] = depth
    return depths


def _check(store: Any, *, repair: bool, as_json: bool) -> int:
    report = store.check(repair=repair)
    if as_json:
        found = {"checked": report.checked, "removed": report.removed}
        print(json.dumps(found | {name: [str(p) for p in getattr(report, name)] for name in ("corrupt", "unreadable")}))
    else:
        for word, paths in (("damaged", report.corrupt), ("unreadable", report.unreadable)):
            for path in paths:
                print(f"{word}: {path}")
        print(f"{report.checked} blocks checked, {len(report.corrupt)} damaged, {report.removed} removed.")
    return 1 if len(report.corrupt) > report.removed or report.unreadable else 0


def _confirmed(store: Any, namespace: bytes | None) -> bool:
    chosen = [entry.size for entry in store.entries() if namespace in (None, entry.name.namespace)]
    question = f"Delete {len(chosen)} blocks ({size_text(sum(chosen))})? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _removed(blocks: int, nbytes: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"removed": blocks, "bytes": nbytes}))
    else:
        print(f"Removed {blocks} blocks, freed {size_text(nbytes)}.")
