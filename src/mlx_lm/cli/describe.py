"""`mlx_lm.manage --describe MODEL`: what a model is made of, from its config and headers; no weight is read."""

import json
from dataclasses import asdict
from typing import Any

from .sizes import size_text

__all__ = ["run"]


def run(model: str, *, as_json: bool) -> None:
    """Prints the description; raises what finding and reading the model raises."""
    from ..hub import resolve
    from ..models.describe import describe_files

    found = describe_files(resolve(model))
    if as_json:
        print(json.dumps({"name": model, **asdict(found)}, indent=2))
        return
    _print(model, found)


def _print(model: str, found: Any) -> None:
    facts = {
        "name": model,
        "model_type": found.model_type,
        "parameters": f"{found.parameters:,}",
        "weights": f"{size_text(found.weight_bytes)}, {found.bits_per_weight:.2f} bits per weight",
        "dtype": found.dtype,
        "hidden size": found.hidden_size,
        "vocabulary": None if found.vocab_size is None else f"{found.vocab_size:,}",
        "context": None if found.context_length is None else f"{found.context_length:,} tokens",
    }
    for name, value in facts.items():
        if value is not None:
            print(f"{name:13} {value}")
    print("layers")
    for group in found.layers:
        which = str(group.first) if group.first == group.last else f"{group.first}-{group.last}"
        keeps = [f"{size_text(group.bytes_per_token)} per token"] if group.bytes_per_token else []
        keeps += [f"{size_text(group.bytes_fixed)} fixed"] if group.bytes_fixed else []
        state = f"{group.state} state" + (f" ({', '.join(keeps)} each)" if keeps else "")
        print(f"  {which:7} {state}")
        for block in group.blocks:
            print(f"          {block}")
    print("states of one sequence")
    for name, per_token in found.kv_bytes_per_token.items():
        line = f"  {name:7} {size_text(per_token)} per token"
        if found.state_bytes_fixed:
            line += f", {size_text(found.state_bytes_fixed)} fixed"
        if name in found.state_bytes_at_context:
            line += f"; {size_text(found.state_bytes_at_context[name])} at {found.context_length:,} tokens"
        print(line)
