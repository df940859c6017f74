"""The Hugging Face hub, through huggingface_hub (imported only here, and only when called).

Contract: `fetch_snapshot` and `fetch_gguf` return a folder of the hub cache that holds what a model needs, resuming
partial downloads; `unreachable` answers quickly whether the hub can be used at all. HF_HOME, HF_TOKEN, HF_ENDPOINT
and HF_HUB_OFFLINE mean what they mean to huggingface_hub. Knows nothing of local paths or packaged models.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.errors import DownloadError, ModelFileError, ModelNotFoundError
from mlx_lm.hub.config import read_config

__all__ = ["PATTERNS", "Request", "fetch_gguf", "fetch_snapshot", "unreachable"]

PATTERNS = (
    *("*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "tiktoken.model", "*.txt", "*.jsonl", "*.jinja"),
)
_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """What to fetch: a repository at a revision, with or without the network, progress bars and *.py files."""

    repo: str
    revision: str | None
    progress: bool
    online: bool
    code: bool

    @property
    def patterns(self) -> list[str]:
        return [*PATTERNS, *(["*.py"] if self.code else [])]


def _network_errors() -> tuple[type[BaseException], ...]:
    """What huggingface_hub may let through; its HTTP library changed between versions."""
    from huggingface_hub import errors

    found: list[type[BaseException]] = [OSError, errors.HfHubHTTPError]
    for name in ("HTTPError", "RequestError"):
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            found.append(kind)
    for module in ("httpx", "httpx2", "requests"):
        try:
            found.append(__import__(module).HTTPError)
        except (ImportError, AttributeError):
            continue
    return tuple(found)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _list_files(repo: str, revision: str | None) -> list[str]:
    """The repository's file names: one request, no retries. Raises the library's errors."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, revision=revision, timeout=_PROBE_SECONDS)
    return [sibling.rfilename for sibling in info.siblings or []]


def _probe(request: Request) -> tuple[list[str] | None, str]:
    """(file names, "") when the hub answers, else (None, why).

    Raises ModelNotFoundError when the hub answers that there is no such repository or revision, or no access to it.
    """
    if not request.online:
        return None, "downloads are off"
    from huggingface_hub import errors

    if _offline():
        return None, "HF_HUB_OFFLINE is set"
    where = f"{request.repo!r}" + (f" at revision {request.revision!r}" if request.revision else "")
    try:
        return _list_files(request.repo, request.revision), ""
    except errors.GatedRepoError:
        raise ModelNotFoundError(
            f"Access to {where} must be requested on its page; then set HF_TOKEN to a token of your account."
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise ModelNotFoundError(
            f"The hub has no model {where}, or it is private (set HF_TOKEN). "
            "It is no local folder, .gguf file or packaged model either."
        ) from None
    except _network_errors() as error:
        return None, f"the hub cannot be reached ({_short(error)})"


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:120]


def unreachable(repo: str) -> str | None:
    """Why `repo` cannot be fetched right now, or None when the hub has it. Takes a few seconds at most."""
    try:
        files, why = _probe(Request(repo, None, False, True, False))
    except ModelNotFoundError:
        return "the hub does not have it"
    return None if files is not None else why


def _bars(progress: bool) -> Any:
    """The tqdm class for downloads: huggingface_hub's own, or one that shows nothing."""
    if progress:
        return None
    from tqdm.auto import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


def _snapshot(request: Request, patterns: list[str], *, local: bool) -> Path:
    """snapshot_download with its errors translated."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            request.repo,
            revision=request.revision,
            allow_patterns=patterns,
            local_files_only=local,
            tqdm_class=_bars(request.progress),
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        raise ModelNotFoundError(f"{request.repo!r} is not in the hub cache.") from error
    except _network_errors() as error:
        raise DownloadError(
            f"Downloading {request.repo!r} failed ({_short(error)}). Run it again to resume where it stopped."
        ) from error
    return Path(str(folder))


def _cached(request: Request, patterns: list[str], why: str) -> Path:
    try:
        return _snapshot(request, patterns, local=True)
    except ModelNotFoundError:
        message = f"{request.repo!r} is not in the hub cache, and {why}."
        raise (ModelNotFoundError if not request.online or _offline() else DownloadError)(message) from None


def _complete(folder: Path, why: str, online: bool) -> Path:
    """A cached snapshot counts only with its config and all its weights."""
    from mlx_lm.hub.safetensors import weight_files

    try:
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(f"{folder}: has no config.json.")
        weight_files(folder)
    except (ModelNotFoundError, ModelFileError) as error:
        message = f"The cached copy is not complete, and {why}. {error}"
        raise (DownloadError if online else ModelNotFoundError)(message) from None
    return folder


def _require_config(request: Request, files: list[str]) -> None:
    if "config.json" in files:
        return
    ggufs = [file for file in files if file.endswith(".gguf")]
    if ggufs:
        choices = ", ".join(f"{request.repo}:{file}" for file in ggufs[:6])
        raise ModelNotFoundError(f"{request.repo!r} holds GGUF files: name one of them, for example {choices}.")
    raise ModelNotFoundError(f"{request.repo!r} has no config.json: it is not a model that can be loaded.")


def fetch_snapshot(request: Request, check_config: Callable[[dict[str, Any]], None] | None) -> Path:
    """The snapshot folder of a safetensors model; `check_config` may refuse before weights are fetched.

    Raises ModelNotFoundError, DownloadError, ConfigError, and what `check_config` raises.
    """
    files, why = _probe(request)
    if files is None:
        folder = _complete(_cached(request, request.patterns, why), why, request.online and not _offline())
        if check_config:
            check_config(read_config(folder / "config.json"))
        return folder
    _require_config(request, files)
    if check_config:
        folder = _snapshot(request, ["config.json"], local=False)
        check_config(read_config(folder / "config.json"))
    return _snapshot(request, request.patterns, local=False)


def fetch_gguf(request: Request, file: str) -> tuple[Path, Path]:
    """(snapshot folder, GGUF file) of one file, or of all parts of a split file, in a hub repository.

    Raises ModelNotFoundError or DownloadError.
    """
    files, why = _probe(request)
    split = re.fullmatch(r"(.*)-\d{5}-of-(\d{5}\.gguf)", file)
    pattern = f"{split[1]}-?????-of-{split[2]}" if split else file
    if files is None:
        folder = _cached(request, [pattern], why)
    elif file not in files:
        choices = ", ".join(name for name in files if name.endswith(".gguf")) or "none"
        raise ModelNotFoundError(f"{request.repo!r} has no file {file!r}. GGUF files there: {choices[:400]}.")
    else:
        folder = _snapshot(request, [pattern], local=False)
    path = folder / file
    if not path.is_file():
        raise DownloadError(f"{request.repo}:{file} is not in the hub cache, and {why or 'it was not downloaded'}.")
    return folder, path
