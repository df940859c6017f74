"""Makes the parity references under tests/parity/references from Hugging Face transformers.

    python scripts/make_parity.py [FAMILY ...] [--check | --force | --list]

Needs torch and transformers; the tests do not. `--check` remakes every reference in memory and compares it with the
committed file (exit 1 on a difference).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "tests" / "parity" / "references"
SUFFIX = ".safetensors.z"  # as tests/parity/references.py reads them


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="families to make (default: all)")
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    parser.add_argument("--force", action="store_true", help="write files that are equal up to rounding, too")
    parser.add_argument("--list", action="store_true", help="print family/variant names and stop")
    options = parser.parse_args(argv)

    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from parity.families import FAMILIES

    unknown = set(options.families) - set(FAMILIES)
    if unknown:
        parser.error(f"no such family: {', '.join(sorted(unknown))}; known: {', '.join(FAMILIES)}")
    chosen = [FAMILIES[name] for name in options.families or FAMILIES]
    if options.list:
        print("\n".join(f"{family.directory}/{variant}" for family in chosen for variant in family.variants))
        return 0

    import transformers
    from parity.build import build_family, compare, write

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failures = 0
    for family in chosen:
        folder = ROOT / family.directory
        try:
            variants = build_family(family)
        except Exception as error:  # one broken family must not hide the state of the others
            print(f"{family.directory}: FAILED {type(error).__name__}: {error}")
            failures += 1
            continue
        wanted = {folder / f"{variant.name}{SUFFIX}" for variant in variants}
        stale = set(folder.glob(f"*{SUFFIX}")) - wanted
        if options.check:
            wrong = [f"{path.name}: has no spec" for path in sorted(stale)]
            for variant in variants:
                wrong += compare(variant, family.directory, folder / f"{variant.name}{SUFFIX}")
            failures += bool(wrong)
            print("\n".join(f"{family.directory}: {line}" for line in wrong) or f"{family.directory}: equal")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for path in stale:
            path.unlink()
        for variant in variants:
            path = folder / f"{variant.name}{SUFFIX}"
            if options.force or compare(variant, family.directory, path):
                write(variant, family.directory, path)
        total = sum(path.stat().st_size for path in wanted)
        spread = " ".join(f"{variant.name}:{variant.logits.std().item():.2f}" for variant in variants)
        print(f"{family.directory}: {len(wanted)} variants, {total / 1024:.0f} kB, logits std {spread}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
