"""What is cached on this machine: Hugging Face hub repositories and packaged models.

Contract: `scan` lists, `find` selects by name, `inspect` opens the headers of one, `delete` removes it and says how
many bytes that freed. Asking the user is the caller's business. Reads no weights.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_lm.errors import ConfigError, MLXLMError, ModelFileError, ModelNotFoundError
from mlx_lm.hub import gguf_load, packaged, safetensors
from mlx_lm.hub.config import read_config
from mlx_lm.hub.packaged_table import PACKAGED

__all__ = ["CacheEntry", "delete", "find", "inspect", "scan"]


@dataclass(frozen=True)
class CacheEntry:
    """One cached model. `folder` is its newest snapshot (hub) or its folder (packaged); `root` is what is deleted."""

    name: str
    source: Literal["hub", "packaged"]
    nbytes: int
    files: int
    folder: Path
    root: Path
    revision: str | None
    modified: float
    complete: bool


def _packaged_entries() -> list[CacheEntry]:
    entries: list[CacheEntry] = []
    for name, model in PACKAGED.items():
        root = packaged.cache_root() / "packaged" / name
        files = [path for path in root.glob("*") if path.is_file() and path.name != ".lock"] if root.is_dir() else []
        if files:
            nbytes = sum(path.stat().st_size for path in files)
            newest = max(path.stat().st_mtime for path in files)
            complete = packaged.cached_path(model.name) is not None
            entries.append(CacheEntry(name, "packaged", nbytes, len(files), root, root, None, newest, complete))
    return entries


def _hub_entries() -> list[CacheEntry]:
    from huggingface_hub import constants, errors, scan_cache_dir

    try:
        info = scan_cache_dir(constants.HF_HUB_CACHE)
    except (errors.CacheNotFound, OSError):
        return []
    entries: list[CacheEntry] = []
    for repo in info.repos:
        if repo.repo_type != "model" or not repo.revisions:
            continue
        newest = max(repo.revisions, key=lambda revision: revision.last_modified)
        names = {file.file_name for file in newest.files}
        complete = _is_complete(newest.snapshot_path, names)
        place, commit = newest.snapshot_path, newest.commit_hash
        entries.append(
            CacheEntry(
                repo.repo_id, "hub", repo.size_on_disk, len(names), place, repo.repo_path, commit,
                repo.last_modified, complete,
            )
        )  # fmt: skip
    return entries


def _is_complete(folder: Path, names: set[str]) -> bool:
    if any(name.endswith(".gguf") for name in names):
        return True
    try:
        return "config.json" in names and bool(safetensors.weight_files(folder))
    except (ModelNotFoundError, ModelFileError):
        return False


def scan(pattern: str = "") -> list[CacheEntry]:
    """All cached models whose name contains `pattern` (any case), by name. An absent cache is an empty list."""
    wanted = pattern.lower()
    entries = [entry for entry in (*_hub_entries(), *_packaged_entries()) if wanted in entry.name.lower()]
    return sorted(entries, key=lambda entry: (entry.source, entry.name))


def find(name: str) -> CacheEntry:
    """The cached model with exactly this name. Raises ModelNotFoundError."""
    entries = _packaged_entries() if name in PACKAGED else _hub_entries()
    for entry in entries:
        if entry.name == name:
            return entry
    raise ModelNotFoundError(f"{name[:200]!r} is not cached. `mlx_lm.manage --scan` lists what is.")


def delete(entry: CacheEntry) -> int:
    """Remove a cached model; returns the bytes freed. Raises ModelFileError when the file system refuses."""
    try:
        shutil.rmtree(entry.root)
    except OSError as error:
        raise ModelFileError(f"{entry.root}: cannot be deleted ({error.strerror or error}).") from error
    return entry.nbytes


def _readme_license(folder: Path) -> str | None:
    """The `license:` line of a model card's front matter."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open("r", encoding="utf-8", errors="replace") as file:
        lines = file.read(65_536).split("\n")
    for line in lines[1:] if lines[0].strip() == "---" else []:
        if line.strip() == "---":
            return None
        if line.startswith("license:"):
            return line.partition(":")[2].strip().strip("'\"") or None
    return None


def _gguf_facts(path: Path) -> dict[str, Any]:
    parts = gguf_load.read_parts(path)
    tensors = [tensor for part in parts for tensor in part.tensors.values()]
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.type.name] = counts.get(tensor.type.name, 0) + 1
    facts: dict[str, Any] = {"format": "gguf", "tensors": len(tensors), "storage": counts}
    facts["architecture"] = str(parts[0].metadata.get("general.architecture"))
    facts["license"] = parts[0].metadata.get("general.license")
    try:
        facts["model_type"] = gguf_load.load_gguf_config(parts[0])["model_type"]
    except MLXLMError as error:
        facts["problem"] = str(error)
    return facts


def _folder_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"format": "safetensors"}
    try:
        config = read_config(folder / "config.json")
    except ConfigError as error:
        return facts | {"problem": str(error)}
    quantization = config.get("quantization") or config.get("quantization_config")
    if isinstance(quantization, dict):  # per-layer entries would drown the rest
        quantization = {key: value for key, value in quantization.items() if isinstance(value, (str, int, float))}
    facts |= {"model_type": config.get("model_type"), "quantization": quantization}
    facts["license"] = _readme_license(folder)
    try:
        headers = [safetensors.read_header(path) for path in safetensors.weight_files(folder)]
        counts: dict[str, int] = {}
        for header in headers:
            for entry in header.tensors.values():
                counts[entry.dtype] = counts.get(entry.dtype, 0) + 1
        facts |= {"tensors": sum(counts.values()), "storage": counts}
    except MLXLMError as error:
        facts["problem"] = str(error)
    return facts


def inspect(folder: str | Path) -> dict[str, Any]:
    """Facts about a model folder or GGUF file, from names and headers alone.

    Keys: path, files [{name, bytes}], bytes, format, model_type, storage {dtype: tensors}, tensors, license, and
    where they apply quantization, architecture and problem (why it would not load). Raises ModelNotFoundError.
    """
    path = Path(folder)
    if not path.exists():
        raise ModelNotFoundError(f"{path}: no such file or folder.")
    listed = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    base = path.parent if path.is_file() else path
    sizes = {str(item.relative_to(base)): item.stat().st_size for item in listed if item.name != ".lock"}
    files = [{"name": name, "bytes": nbytes} for name, nbytes in sizes.items()]
    ggufs = [item for item in listed if item.suffix == ".gguf"]
    result: dict[str, Any] = {"path": str(path), "files": files, "bytes": sum(sizes.values())}
    if (base / "config.json").is_file() and path.is_dir():
        return result | _folder_facts(path)
    if ggufs:
        return result | _gguf_facts(ggufs[0])
    return result | {"format": None, "problem": "has neither config.json nor a .gguf file"}
