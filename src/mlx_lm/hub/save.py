"""Writing a model folder in mlx-lm's layout: shards, index, config, model card. Nothing half-written is ever visible.

The folder is built beside its target and renamed into place; each shard is computed, written and let go before the
next, so memory stays near one shard.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelFileError

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = ["copy_side_files", "make_shards", "model_card", "new_folder", "save_config", "save_weights"]

MAX_SHARD_BYTES = 5 << 30
_SIDE_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt", "*.jsonl")
# Written anew, or telling how another quantizer stored the weights that were read.
_OWN_FILES = {
    "config.json",
    "hf_quant_config.json",
    "model.safetensors.index.json",
    "quant_config.json",
    "quantize_config.json",
}


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and vanishes when it does not.

    Raises:
        ModelFileError: `target` exists.
    """
    path = Path(target)
    if path.exists() or path.is_symlink():
        raise ModelFileError(f"{path} exists already; choose another output path or remove it first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o755)
        os.rename(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_shards(weights: Mapping[str, "mx.array"], max_bytes: int = MAX_SHARD_BYTES) -> list[list[str]]:
    """Names in groups of at most `max_bytes` (a larger tensor is a group of its own)."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, value in weights.items():
        if shards[-1] and size + value.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += value.nbytes
    return shards


def save_weights(
    folder: Path, weights: dict[str, "mx.array"], *, total_parameters: int, max_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Writes `weights` as `model*.safetensors` with an index; empties the dictionary as it goes."""
    import mlx.core as mx

    total_size = sum(v.nbytes for v in weights.values())
    shards = make_shards(weights, max_bytes)
    places: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        shard = {name: weights.pop(name) for name in names}
        mx.save_safetensors(str(folder / file), shard, {"format": "mlx"})
        places |= dict.fromkeys(names, file)
        del shard
        mx.clear_cache()
        with open(folder / file, "rb") as written:
            os.fsync(written.fileno())
    index = {
        "metadata": {"total_size": total_size, "total_parameters": total_parameters},
        "weight_map": dict(sorted(places.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=4), encoding="utf-8")


def save_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes config.json, sorted, with `quantization` mirrored to `quantization_config` for other readers."""
    clean = {k: v for k, v in config.items() if k not in ("_name_or_path", "vision_config")}
    if "quantization" in clean:
        clean["quantization_config"] = clean["quantization"]
    text = json.dumps(dict(sorted(clean.items())), indent=4)
    (folder / "config.json").write_text(text, encoding="utf-8")


def copy_side_files(source: Path, folder: Path) -> None:
    """Copies tokenizer, template and generation files; never weights or code."""
    for pattern in _SIDE_FILES:
        for file in source.glob(pattern):
            if file.name not in _OWN_FILES and not file.name.endswith(".index.json") and file.is_file():
                shutil.copyfile(file, folder / file.name)


def model_card(name: str, *, source: str, base: str | None, quantization: Mapping[str, Any] | None) -> str:
    """README.md of a converted model; `base` is the Hugging Face id that it was made from, when it has one."""
    lines = ["---", "library_name: mlx", "pipeline_tag: text-generation"]
    if base is not None:
        lines.append(f"base_model: {base}")
        if quantization:
            lines.append("base_model_relation: quantized")
    lines += ["tags:", "- mlx", "---", "", f"# {name}", ""]
    how = ""
    if quantization:
        how = f", quantized to {quantization['bits']} bits in groups of {quantization['group_size']}"
        how += f" ({quantization.get('mode', 'affine')})"
    lines += [
        f"Converted to MLX format from `{source}`{how}.",
        "",
        "```bash",
        "pip install mlx-lm",
        f'mlx_lm.generate --model {name} --prompt "hello"',
        "```",
        "",
        "```python",
        "from mlx_lm import generate, load",
        "",
        f'model, tokenizer = load("{name}")',
        'messages = [{"role": "user", "content": "hello"}]',
        "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)",
        "print(generate(model, tokenizer, prompt))",
        "```",
        "",
    ]
    return "\n".join(lines)


def _sync(folder: Path) -> None:
    """Makes renames in `folder` durable; a file system without directory handles is left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
