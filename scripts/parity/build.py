"""Builds one reference: a tiny checkpoint with every parameter random, and the logits transformers computes from it.

Weights are rounded to what an 8-bit float (E4M3) holds exactly and are stored so, which halves the files; logits are
evaluated in float32 with eager attention. The stored file is proven before it is written: transformers loads it back
with both spellings of the config and must give the same logits.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .hub import hub_spelling
from .spec import DROP, Family, merged

__all__ = ["Built", "build_family", "compare", "write"]

# Vectors, and the few matrices that are initialised to something other than noise, move around that value; the rest is
# drawn anew with a gain that keeps activations near 1.
_AROUND = re.compile(
    r"A_log|dt_bias|(^|\.)D$|norm|bias|scale|log_decay|lambda|gamma|beta|time_|rg_lru\.recurrent_param"
)
_COMPUTED = re.compile(r"\.(slope_rate|query_decay|key_decay|diagonal_decay)$")  # tables that follow from the config
_EMBEDDING = re.compile(r"embed|wte|wpe|shared\.weight")
_VISION = re.compile(r"vision|visual|projector")  # what text models leave out; its layout is not described
_SPREAD = 0.25
_STORED = torch.float8_e4m3fn


@dataclass
class Built:
    """One variant, ready to be written.

    `native` describes transformers' own layout where it differs from the disk layout: name -> shape and the parts whose
    elements follow one another in it; a part is a disk name, or `[disk name, first element, number of elements]`.
    """

    name: str
    config_v5: dict[str, Any]
    config_hub: dict[str, Any]
    weights: dict[str, torch.Tensor]
    native: dict[str, dict[str, Any]]
    ids: torch.Tensor
    logits: torch.Tensor
    path_dependent: str = ""
    borrowed: dict[str, list[str]] = field(default_factory=dict)


def build_family(family: Family) -> list[Built]:
    """All variants in order; raises ValueError when a variant does not prove what it claims."""
    built: list[Built] = []
    for name in family.variants:
        variant = _build(family, name)
        _borrow(variant, built)
        own = sum(t.numel() for k, t in variant.weights.items() if not _lent(variant, k))
        twin = built[0] if built else None
        if twin is not None and own == 0 and name not in family.inert and twin.logits.shape == variant.logits.shape:
            change = (twin.logits - variant.logits).abs().max().item()
            if change < 1e-3:
                raise ValueError(
                    f"{family.directory}/{name}: same logits as {twin.name} ({change:.1e}): option is inert"
                )
        built.append(variant)
    return built


def _build(family: Family, name: str) -> Built:
    torch.manual_seed(0)
    settings = merged(family.base, {k: v for k, v in family.variants[name].items() if not k.startswith("_")})
    config = CONFIG_MAPPING[family.model_type](**settings)
    attention = family.variants[name].get("_attention", "eager")
    config._attn_implementation = attention
    auto = AutoModelForImageTextToText if family.conditional else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    _randomize(model, family)
    vocab = config.get_text_config().vocab_size
    length = family.variants[name].get("_length", family.length)
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, vocab - 4, (1, length), generator=generator)  # the last ids may be image tokens
    logits = _logits(model, ids)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config_v5 = json.loads((Path(folder) / "config.json").read_text())
        disk = load_file(Path(folder) / "model.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=False)
        inside = load_file(Path(folder) / "model.safetensors")
    # Stored in half precision the tables would contradict the config.
    disk, inside = ({k: v for k, v in part.items() if not _COMPUTED.search(k)} for part in (disk, inside))
    if family.published is not None:
        disk = family.published(disk, inside)
    for tensor, shape in family.extra.get(name, {}).items():
        disk[tensor] = _drawn(tensor, torch.zeros(shape), {})
    config_v5 = _with_dtype(config_v5)
    changes = {**family.hub, **family.variants[name].get("_hub", {})}
    config_hub = hub_spelling(config_v5, changes, DROP, flat_rope=not family.modern)
    if family.respell is not None:
        config_hub = family.respell(config_hub)
    weights = {k: _bf16(v) for k, v in disk.items()}
    built = Built(name, config_v5, config_hub, weights, _native(weights, inside), ids.to(torch.int32), logits)
    built.path_dependent = family.variants[name].get("_path_dependent", "")
    _prove(family, built)
    return built


def _with_dtype(config: dict[str, Any]) -> dict[str, Any]:
    config["dtype"] = "bfloat16"
    for value in config.values():
        if isinstance(value, dict) and "dtype" in value:
            value["dtype"] = "bfloat16"
    return config


def _bf16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16).contiguous() if tensor.is_floating_point() else tensor.contiguous()


def _randomize(model: torch.nn.Module, family: Family) -> None:
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    seen: set[int] = set()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if _COMPUTED.search(name):
                continue
            count = next((n for pattern, n in family.choices.items() if re.search(pattern, name)), 0)
            if count:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                order = [torch.randperm(count, generator=generator)[: tensor.shape[1]] for _ in tensor]
                tensor.copy_(torch.stack(order))
            if tensor.data_ptr() in seen or not tensor.is_floating_point():
                continue
            seen.add(tensor.data_ptr())
            drawn = _drawn(name, tensor, family.gain, tied=tied)
            if any(re.search(pattern, name) for pattern in family.mxfp4):
                drawn = _as_mxfp4(drawn)
            tensor.copy_(drawn)


def _drawn(name: str, tensor: torch.Tensor, gain: Mapping[str, float], *, tied: bool = False) -> torch.Tensor:
    seed = zlib.crc32(f"{name}{tuple(tensor.shape)}".encode())
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed))
    scale = next((value for pattern, value in gain.items() if re.search(pattern, name)), 1.0)
    if tensor.ndim <= 1 or (_AROUND.search(name) and "weight" not in name.rsplit("_", 1)[-1]):
        start = tensor if torch.isfinite(tensor).all() and tensor.abs().max() < 100 else torch.zeros_like(tensor)
        drawn = start + _SPREAD * scale * noise
    elif _EMBEDDING.search(name) and tensor.ndim == 2:
        drawn = noise * (scale / math.sqrt(tensor.shape[-1]) if tied else 0.5 * scale)
    else:
        fan_in = math.prod(tensor.shape[1:]) if "conv" in name else tensor.shape[-1]
        drawn = noise * scale * 1.2 / math.sqrt(fan_in)
    return drawn.to(_STORED).to(tensor.dtype)


def _as_mxfp4(tensor: torch.Tensor) -> torch.Tensor:
    """Nearest values with a 4-bit float in every element and a power of two per 32 along axis 1 of (E, in, out)."""
    experts, width, out = tensor.shape
    blocks = tensor.reshape(experts, width // 32, 32, out)
    scale = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(2, keepdim=True))) - 2)
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    nearest = ((blocks / scale).abs().unsqueeze(-1) - grid).abs().argmin(-1)
    return (grid[nearest] * blocks.sign() * scale).reshape(tensor.shape).to(_STORED).float()


def _logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float().contiguous()
    std = logits.std().item()
    if not (math.isfinite(std) and 0.2 < std < 8):
        raise ValueError(f"logits are not lively: std {std:.3g}")
    return logits


def _native(disk: Mapping[str, torch.Tensor], inside: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Recipes for the tensors of transformers' own layout that the disk layout has under other names or cut up."""
    flat = {k: v.flatten() for k, v in disk.items()}
    recipes: dict[str, dict[str, Any]] = {}
    for name, tensor in inside.items():
        target = _bf16(tensor).flatten()
        if _VISION.search(name):
            continue
        if name not in flat or not torch.equal(flat[name], target):
            recipes[name] = {"shape": list(tensor.shape), "parts": _pieces(name, target, flat, tensor.shape[-1])}
    return recipes


def _pieces(name: str, target: torch.Tensor, flat: Mapping[str, torch.Tensor], width: int) -> list[Any]:
    size = target.numel()
    alike = ((k, v) for k, v in flat.items() if v.dtype == target.dtype)
    # A few numbers stand in many places: a tensor of the same size comes first.
    sources = sorted(alike, key=lambda item: (item[1].numel() != size, -item[1].numel()))
    for source, data in sources:
        for start in range(0, data.numel() - size + 1, max(size // 2, 1)):
            if torch.equal(data[start : start + size], target):
                return [source] if data.numel() == size else [[source, start, size]]
    parts: list[Any] = []
    at = 0
    while at < size:
        for source, data in sources:
            if torch.equal(data, target[at : at + data.numel()]):
                parts.append(source)
                at += data.numel()
                break
        else:
            return _rows(name, target, sources, width)
    return parts


def _rows(name: str, target: torch.Tensor, sources: list[tuple[str, torch.Tensor]], width: int) -> list[Any]:
    """One piece for each row, where the saved tensor has the rows in another order."""
    parts: list[Any] = []
    for row in target.reshape(-1, width):
        found = ((k, (v.reshape(-1, width) == row).all(-1).nonzero()) for k, v in sources if v.numel() % width == 0)
        source, at = next(((k, where) for k, where in found if len(where)), ("", row[:0]))
        if not source:
            raise ValueError(f"{name}: no pieces of the saved tensors make it up")
        parts.append([source, int(at[0]) * width, width])
    return parts


def _prove(family: Family, built: Built) -> None:
    for spelling, config in (("v5", built.config_v5), ("hub", built.config_hub)):
        with tempfile.TemporaryDirectory() as folder:
            save_file(built.weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
            (Path(folder) / "config.json").write_text(json.dumps(config))
            settings = AutoConfig.from_pretrained(folder)
            auto = AutoModelForImageTextToText if family.conditional else AutoModelForCausalLM
            attention = family.variants[built.name].get("_attention", "eager")
            model, report = auto.from_pretrained(
                folder, config=settings, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
            )
            missing = {key for key in report["missing_keys"] if not _COMPUTED.search(key)}
            if missing:
                raise ValueError(f"{family.directory}/{built.name}: {spelling} misses {missing}")
            error = (_logits(model.eval(), built.ids.long()) - built.logits).abs().max().item()
        if error > 1e-5:
            raise ValueError(f"{family.directory}/{built.name}: {spelling} config gives other logits ({error:.2e})")


def _lent(variant: Built, name: str) -> bool:
    return any(name in names for names in variant.borrowed.values())


def _borrow(variant: Built, earlier: list[Built]) -> None:
    for name, tensor in variant.weights.items():
        for other in earlier:
            same = other.weights.get(name)
            if same is not None and not _lent(other, name) and same.shape == tensor.shape and torch.equal(same, tensor):
                variant.borrowed.setdefault(other.name, []).append(name)
                break


def _own(built: Built) -> dict[str, torch.Tensor]:
    small = {k: v.to(_STORED) for k, v in built.weights.items() if v.is_floating_point() and not _lent(built, k)}
    exact = {k: torch.equal(v.to(torch.bfloat16), built.weights[k]) for k, v in small.items()}
    return {k: small[k] if exact.get(k) else v for k, v in built.weights.items() if not _lent(built, k)}


def write(built: Built, family: str, path: Path) -> None:
    """Stores a variant: own tensors in F8_E4M3 (BF16 where that loses anything), `ids` (1, L) int32 and `logits`
    (1, L, V) float32; the rest is metadata; all of it as zlib packs it."""
    save_file(_own(built) | {"ids": built.ids, "logits": built.logits}, path, metadata=_metadata(built, family))
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # safetensors writes them in random order
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(zlib.compress(len(text).to_bytes(8, "little") + text + data[start:], 9))


def _metadata(built: Built, family: str) -> dict[str, str]:
    def packed(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), sort_keys=True)

    borrowed: dict[str, Any] = {k: sorted(v) for k, v in built.borrowed.items()}
    return {
        "borrowed": packed(borrowed),
        "config_hub": packed(built.config_hub),
        "config_v5": packed(built.config_v5),
        "family": family,
        "native": packed(built.native),
        "path_dependent": built.path_dependent,
        "variant": built.name,
    }


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left.float(), right.float())


def compare(built: Built, family: str, path: Path) -> list[str]:
    """Differences between a variant and its committed file: weights and configs exactly, logits to 1e-5."""
    if not path.exists():
        return [f"{path.name}: not committed"]
    wrong: list[str] = []
    tensors = _own(built) | {"ids": built.ids}
    data = zlib.decompress(path.read_bytes())
    held = load(data)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if set(held) != set(tensors) | {"logits"}:
        return [f"{path.name}: tensors differ: {sorted(set(held) ^ (set(tensors) | {'logits'}))[:8]}"]
    wrong += [f"{path.name}: {k} differs" for k, v in tensors.items() if not _equal(held[k], v)]
    error = (held["logits"] - built.logits).abs().max().item()
    if error > 1e-5:
        wrong.append(f"{path.name}: logits differ by {error:.2e}")
    wrong += [f"{path.name}: {k} differs" for k, v in _metadata(built, family).items() if metadata.get(k) != v]
    return wrong
