"""Writes docs/families.md: every family, its proof, its states and the largest error seen.

    python scripts/family_table.py [--check]

Needs only what the tests need: the references are committed. Run it after adding a family; `--check` compares the
committed table with the families and references (exit 1 when one is missing).
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import mlx.core as mx

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "families.md"
sys.path.insert(0, str(ROOT / "tests" / "parity"))

from float64.cases import CASES  # noqa: E402
from references import all_references, load_reference  # noqa: E402
from test_quantized import NAMES, difference  # noqa: E402

from mlx_lm.models import build_model, families  # noqa: E402
from mlx_lm.models.registry import MODEL_REMAPPING  # noqa: E402

HEADER = """# Model families

Made by `python scripts/family_table.py`; do not edit. *Proof*: `transformers` families are compared with Hugging Face
transformers in float32 on tiny random checkpoints, with the config in the published spelling and in that of
transformers 5 and in both weight layouts; `reference` families, which transformers does not implement, with an
independent float64 computation written from the paper (`tests/parity/float64`). Both are run as a whole prompt, in
chunks, token by token, and in a batch of unlike lengths. *Quantized import*: the family packed to 4 bits, saved and
loaded again equals the same values dense. *Error* is the largest absolute difference of logits over all variants;
logits have a standard deviation of about 1.

| family (`model_type`) | proof | variants | states | tensor parallel | quantized import | error |
|---|---|---:|---|---|---|---:|
"""


def rows() -> dict[str, list[str]]:
    """By family the names of its references, of either kind."""
    variants = defaultdict(list)
    for name in (*all_references(), *CASES):
        variants[name.split("/")[0]].append(name)
    return variants


def measured(name: str) -> tuple[float, set[str]]:
    """The largest error of a reference, and the kinds of states that its model keeps."""
    checks: list[tuple[dict[str, Any], Any, mx.array, mx.array]] = []
    if name in CASES:
        logits, tensors = CASES[name].run()
        weights = {k: mx.array(v) for k, v in tensors.items()}
        checks.append(
            (CASES[name].config, weights, mx.array(CASES[name].ids)[None], mx.array(logits, mx.float32)[None])
        )
    else:
        reference = load_reference(name)
        for spelling in ("v5", "hub"):
            checks.append((reference.config(spelling), reference.weights, reference.ids, reference.logits))
    error, states = 0.0, set()
    for config, weights, ids, expected in checks:
        model = build_model(config, weights)
        error = max(error, mx.abs(model(ids) - expected).max().item())
        states |= {spec.kind for spec in model.state_specs()}
    return error, states


def known_types() -> set[str]:
    """Every type that has a family, written as a module's name."""
    return {name.replace("-", "_") for name in (*families(), *MODEL_REMAPPING)}


def absent() -> list[str]:
    """Families with a reference that the committed table does not have."""
    text, known = TABLE.read_text(encoding="utf-8"), known_types()
    return [f for f in rows() if f.replace("-", "_") in known and f"| {f} |" not in text]


def main() -> int:
    known = known_types()
    variants = rows()
    if "--check" in sys.argv:
        print("\n".join(f"{family}: not in the table" for family in absent()) or "every family is in the table")
        return bool(absent())
    lines, missing = [], []
    for family, names in sorted(variants.items()):
        if family.replace("-", "_") not in known:
            missing.append(family)
            continue
        results = [measured(name) for name in names]
        error, states = max(e for e, _ in results), set().union(*(s for _, s in results))
        proof = "reference" if names[0] in CASES else "transformers"
        first = next((n for n in names if n in NAMES), None)
        off, _ = difference(first) if first else (1.0, 0)
        imported = "yes" if off <= 1 / 8 else "no"
        lines.append(
            f"| {family} | {proof} | {len(names)} | {', '.join(sorted(states))} | no | {imported} | {error:.0e} |"
        )
    text = HEADER + "\n".join(lines) + "\n"
    other = sorted(known - {name.replace("-", "_") for name in variants})
    if other:
        text += f"\nRead as one of these, or without a reference of their own: {', '.join(other)}.\n"
    TABLE.write_text(text, encoding="utf-8")
    print(f"{len(lines)} families written; references without a family: {', '.join(missing) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
