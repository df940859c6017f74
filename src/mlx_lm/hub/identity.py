"""A fingerprint of a model's weights: the identity under which prompt caches are stored.

Contract: sha256 over each weight file's size, its header and 64 samples of its data, so that two fine-tunes of one
architecture (equal sizes, equal headers) differ. Paths and names do not enter: a moved model keeps its fingerprint.
Samples cannot tell apart files that differ only between them; that is not an integrity check.
"""

import hashlib
from pathlib import Path

from mlx_lm.hub import gguf, gguf_load, safetensors

__all__ = ["fingerprint"]

_SAMPLES = 64
_SAMPLE_BYTES = 4_096


def _add_file(digest: "hashlib._Hash", path: Path, header_bytes: int) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little") + header_bytes.to_bytes(8, "little"))
    with path.open("rb") as file:
        left = header_bytes
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        for index in range(_SAMPLES):
            file.seek(header_bytes + (size - header_bytes) * index // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))


def fingerprint(model: str | Path) -> str:
    """Hexadecimal sha256 of the weights of a model folder or a GGUF file (all its parts).

    Raises ModelNotFoundError, ModelFileError or UnsupportedError as the readers do.
    """
    model = Path(model)
    digest = hashlib.sha256(b"mlx_lm weights 1")
    if model.suffix == ".gguf":
        for part in gguf_load.read_parts(gguf.read(model)):
            _add_file(digest, part.path, part.data_offset)
        return digest.hexdigest()
    for path in safetensors.weight_files(model):
        _add_file(digest, path, safetensors.read_header(path).data_start)
    return digest.hexdigest()
