"""Writes docs/families.md: every family, its proof, its states and the largest error seen against transformers.

    python scripts/family_table.py

Needs only what the tests need: the references are committed. Run it after adding a family.
"""

import sys
from collections import defaultdict
from pathlib import Path

import mlx.core as mx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "parity"))

from references import all_references, load_reference  # noqa: E402

from mlx_lm.models import build_model, families  # noqa: E402
from mlx_lm.models.registry import MODEL_REMAPPING  # noqa: E402

HEADER = """# Model families

Made by `python scripts/family_table.py`; do not edit. Every family is compared with Hugging Face transformers in
float32 on tiny random checkpoints: the whole prompt, in chunks, token by token, and in a batch of unlike lengths, with
the config in the published spelling and in that of transformers 5 (`tests/parity`). *Error* is the largest absolute
difference of logits over all variants; logits have a standard deviation of about 1.

| family (`model_type`) | variants | states | error |
|---|---:|---|---:|
"""


def main() -> None:
    variants = defaultdict(list)
    for name in all_references():
        variants[name.split("/")[0]].append(name)
    known = {*families(), *MODEL_REMAPPING}
    rows, missing = [], []
    for family, names in sorted(variants.items()):
        if family not in known:
            missing.append(family)
            continue
        error, states = 0.0, set()
        for name in names:
            reference = load_reference(name)
            for spelling in ("v5", "hub"):
                model = build_model(reference.config(spelling), reference.weights)
                error = max(error, mx.abs(model(reference.ids) - reference.logits).max().item())
                states |= {spec.kind for spec in model.state_specs()}
        rows.append(f"| {family} | {len(names)} | {', '.join(sorted(states))} | {error:.0e} |")
    text = HEADER + "\n".join(rows) + "\n"
    other = sorted(known - set(variants))
    if other:
        text += f"\nRead as one of these, or without a reference of their own: {', '.join(other)}.\n"
    (ROOT / "docs" / "families.md").write_text(text, encoding="utf-8")
    print(f"{len(rows)} families written; references without a family: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
