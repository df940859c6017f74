"""Reads the committed parity references (made by scripts/make_parity.py) without torch.

A reference file is safetensors in zlib: weights in F8_E4M3 (BF16 where that would lose anything), `ids`, `logits`, and
JSON metadata. Tensors equal to those of an earlier variant of the family are borrowed from its file. Nothing here knows
how a model is built.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

__all__ = ["ROOT", "Reference", "all_references", "load_reference"]

SUFFIX = ".safetensors.z"
ROOT = Path(__file__).resolve().parent / "references"


@dataclass(frozen=True, repr=False)
class Reference:
    """One tiny checkpoint and what transformers computes from it.

    `weights` are float32 under the names `save_pretrained` writes, which are the published ones; `logits` is
    (1, L, V) for `ids` (1, L). `path_dependent` names the rope kind whose frequencies depend on the length seen so far,
    so that a prompt in pieces cannot give the logits of the whole; "" for every other variant.
    """

    family: str
    variant: str
    config_v5: dict[str, Any]
    config_hub: dict[str, Any]
    weights: dict[str, mx.array]
    native: dict[str, dict[str, Any]]
    ids: mx.array
    logits: mx.array
    path_dependent: str

    def __repr__(self) -> str:
        return f"Reference({self.family}/{self.variant})"

    def config(self, spelling: str) -> dict[str, Any]:
        """A fresh copy of the config: "v5" as transformers 5 saves it, "hub" as published checkpoints spell it."""
        return json.loads(json.dumps({"v5": self.config_v5, "hub": self.config_hub}[spelling]))

    def native_weights(self) -> dict[str, mx.array]:
        """The weights in transformers' own layout (`save_original_format=False`, FSDP and trainer state dicts):
        stacked experts, language-model prefixes. Tensors transformers ignores stay under their published names."""
        used: set[str] = set()
        made: dict[str, mx.array] = {}
        for name, recipe in self.native.items():
            pieces = []
            for part in recipe["parts"]:
                source, start, count = (part, 0, None) if isinstance(part, str) else part
                used.add(source)
                flat = self.weights[source].reshape(-1)
                pieces.append(flat[start : None if count is None else start + count])
            made[name] = mx.concatenate(pieces).reshape(recipe["shape"])
        return {k: v for k, v in self.weights.items() if k not in used} | made

    def save_checkpoint(self, folder: Path, *, spelling: str = "v5", native: bool = False) -> Path:
        """Writes config.json and model.safetensors (BF16, exact) as a model folder; returns `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config(spelling)))
        weights = self.native_weights() if native else self.weights
        stored = {k: v.astype(mx.bfloat16) if v.dtype == mx.float32 else v for k, v in weights.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "pt"})
        return folder


def all_references() -> list[str]:
    """Names "family/variant" of every committed reference, sorted."""
    return sorted(f"{path.parent.name}/{path.name.removesuffix(SUFFIX)}" for path in ROOT.glob(f"*/*{SUFFIX}"))


@cache
def load_reference(name: str) -> Reference:
    """The reference "family/variant"; raises FileNotFoundError when there is none."""
    tensors, metadata = _read(ROOT / f"{name}{SUFFIX}")
    ids, logits = tensors.pop("ids"), tensors.pop("logits")
    for variant, borrowed in json.loads(metadata["borrowed"]).items():
        lender, _ = _read(ROOT / metadata["family"] / f"{variant}{SUFFIX}")
        tensors |= {k: lender[k] for k in borrowed}
    return Reference(
        family=metadata["family"],
        variant=metadata["variant"],
        config_v5=json.loads(metadata["config_v5"]),
        config_hub=json.loads(metadata["config_hub"]),
        weights={k: mx.array(v) for k, v in tensors.items()},
        native=json.loads(metadata["native"]),
        ids=mx.array(ids),
        logits=mx.array(logits),
        path_dependent=metadata["path_dependent"],
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    data = zlib.decompress(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    return {
        name: _decoded(data[start + info["data_offsets"][0] : start + info["data_offsets"][1]], info)
        for name, info in header.items()
    }, metadata


def _decoded(raw: bytes, info: dict[str, Any]) -> np.ndarray:
    kind, shape = info["dtype"], info["shape"]
    if kind == "F8_E4M3":
        return _E4M3[np.frombuffer(raw, np.uint8)].reshape(shape)
    if kind == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(raw, {"F32": np.float32, "I32": np.int32, "I64": np.int64}[kind]).reshape(shape)


def _e4m3(byte: int) -> float:
    sign, exponent, fraction = -1.0 if byte & 128 else 1.0, (byte >> 3) & 15, byte & 7
    if exponent == 15 and fraction == 7:
        return math.nan
    return sign * (math.ldexp(fraction / 8, -6) if exponent == 0 else math.ldexp(1 + fraction / 8, exponent - 7))


_E4M3 = np.array([_e4m3(byte) for byte in range(256)], np.float32)
