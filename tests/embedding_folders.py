"""Tiny encoders in folders, with the hidden states that transformers computes from them."""

import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

__all__ = ["folder", "reference"]

REFERENCES = Path(__file__).parent / "embed" / "references"


def reference(name: str):
    """(config, weights, ids, hidden) as transformers computed them."""
    blob = zlib.decompress((REFERENCES / f"{name}.safetensors.z").read_bytes())
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    config = json.loads(header.pop("__metadata__")["config"])
    found = {}
    for key, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        kind = {"F32": np.float32, "I32": np.int32}[entry["dtype"]]
        found[key] = np.frombuffer(blob[begin:end], kind).reshape(entry["shape"])
    return config, {k: v for k, v in found.items() if "." not in k[:3]}, found["in.ids"], found["out.hidden"]


def folder(tmp_path: Path, name: str, **changes) -> Path:
    config, weights, _, _ = reference(name)
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    save_file({f"{name}.{k}": v for k, v in weights.items()}, tmp_path / "model.safetensors")
    backend = Tokenizer(
        models.WordLevel({"[CLS]": 2, "[SEP]": 3, "[UNK]": 4, **{f"w{i}": i for i in range(5, 60)}}, "[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]", "sep_token": "[SEP]"}))
    return tmp_path
