"""From texts to unit vectors: tokens, encoder, pooling, and the folder that says which pooling.

Texts of equal length are computed together and nothing is padded, so a vector does not depend on its batch mates.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_flatten

from .. import hub
from ..errors import ConfigError, ContextLengthError, ModelFileError, RequestError, WeightsError
from ..tokenizer import TokenizerWrapper, load_tokenizer
from .bert import Encoder, EncoderArgs

__all__ = ["EMBEDDING_TYPES", "EmbeddingModel", "Pooling", "is_embedding_config", "load_embedding_model"]

EMBEDDING_TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
Pooling = Literal["mean", "cls", "max"]
_POOLING: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_BATCH_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """An encoder with its tokenizer and pooling."""

    encoder: Encoder
    tokenizer: TokenizerWrapper
    pooling: Pooling

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self.encoder.args.hidden_size

    @property
    def max_tokens(self) -> int:
        """Tokens of one text, with the special ones."""
        return self.encoder.args.max_tokens

    def tokens(self, text: str | Sequence[int]) -> list[int]:
        """Token ids of a text, or of a list of its ids, with the model's special tokens.

        Raises:
            RequestError: an id is not in the vocabulary.
            ContextLengthError: there are more tokens than the model has positions.
        """
        if isinstance(text, str):
            ids = list(self.tokenizer.encode(text))
        else:
            ids = list(text)
            vocabulary = self.encoder.args.vocab_size
            wrong = next(
                (i for i in ids if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < vocabulary), None
            )
            if wrong is not None:
                raise RequestError(
                    f"{wrong!r} is no token id of this model: ids are whole numbers below {vocabulary:,}."
                )
            specials = list(self.tokenizer.encode(""))
            middle = len(specials) // 2
            if ids[:middle] != specials[:middle]:
                ids = [*specials[:middle], *ids, *specials[middle:]]
        if not ids:
            raise RequestError("A text to embed is empty.")
        if len(ids) > self.max_tokens:
            raise ContextLengthError(len(ids), self.max_tokens)
        return ids

    def embed(self, token_ids: Sequence[Sequence[int]], dimensions: int | None = None) -> mx.array:
        """Unit vectors (n, D) float32 of texts given as `tokens` made them; `dimensions` keeps the first ones.

        Raises:
            RequestError: `dimensions` is out of range.
        """
        if dimensions is not None and not 1 <= dimensions <= self.size:
            raise RequestError(f"dimensions must lie between 1 and {self.size}, not {dimensions}.")
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, ids in enumerate(token_ids):
            by_length[len(ids)].append(i)
        rows: dict[int, mx.array] = {}
        for length, indices in by_length.items():
            step = max(1, _BATCH_TOKENS // length)
            for start in range(0, len(indices), step):
                part = indices[start : start + step]
                pooled = self._pool(self.encoder(mx.array([list(token_ids[i]) for i in part], mx.int32)))
                mx.eval(pooled)
                rows |= {i: pooled[j] for j, i in enumerate(part)}
        vectors = mx.stack([rows[i] for i in range(len(token_ids))]).astype(mx.float32)[:, :dimensions]
        return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    def _pool(self, hidden: mx.array) -> mx.array:  # (B, L, D) -> (B, D)
        if self.pooling == "cls":
            return hidden[:, 0]
        return hidden.max(axis=1) if self.pooling == "max" else hidden.mean(axis=1)


def is_embedding_config(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of an encoder that `load_embedding_model` reads."""
    return config.get("model_type") in EMBEDDING_TYPES


def load_embedding_model(files: "hub.ModelFiles | str | Path") -> EmbeddingModel:
    """An embedding model by folder, Hugging Face id, or files that were found already.

    Raises:
        ModelNotFoundError, ModelFileError, ConfigError, WeightsError, TokenizerError.
    """
    found = files if isinstance(files, hub.ModelFiles) else hub.resolve(str(files))
    config = hub.read_config(Path(found.folder) / "config.json")
    if not is_embedding_config(config):
        raise ConfigError(
            f"Model type {config.get('model_type')!r} is no embedding model; known: {', '.join(EMBEDDING_TYPES)}."
        )
    encoder = Encoder(EncoderArgs.from_dict(config))
    _assign(encoder, hub.load_folder(found.folder))
    encoder.eval()
    return EmbeddingModel(encoder, load_tokenizer(found.folder), _pooling_of(Path(found.folder)))


def _assign(encoder: Encoder, weights: Mapping[str, mx.array]) -> None:
    flat: list[tuple[str, mx.array]] = tree_flatten(encoder.parameters())  # type: ignore[assignment]
    wanted = {name: value.shape for name, value in flat}
    taken: dict[str, mx.array] = {}
    for name, value in weights.items():
        short = name
        for prefix in ("bert.", "roberta.", "model."):
            short = short.removeprefix(prefix)
        short = short.replace(".LayerNorm.gamma", ".LayerNorm.weight").replace(".LayerNorm.beta", ".LayerNorm.bias")
        if short in wanted:
            taken[short] = value.astype(mx.float32)
    missing = sorted(wanted.keys() - taken.keys())
    if missing:
        raise WeightsError(f"The checkpoint lacks {len(missing)} of the encoder's tensors, first {missing[0]!r}.")
    wrong = next((n for n in wanted if tuple(taken[n].shape) != tuple(wanted[n])), None)
    if wrong is not None:
        raise WeightsError(
            f"{wrong}: has the shape {tuple(taken[wrong].shape)}, the config says {tuple(wanted[wrong])}."
        )
    encoder.load_weights(list(taken.items()))
    mx.eval(encoder.parameters())


def _pooling_of(folder: Path) -> Pooling:
    """The pooling of sentence-transformers' folder; the mean without one."""
    for path in sorted(folder.glob("*_Pooling/config.json")):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{path} is not valid JSON: {error}.") from error
        if not isinstance(config, dict):
            raise ModelFileError(f"{path} must hold a JSON object.")
        chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        if len(chosen) != 1 or chosen[0] not in _POOLING:
            raise ConfigError(
                f"{path}: pooling by {', '.join(chosen) or 'nothing'} is not supported; known: {', '.join(_POOLING)}."
            )
        return _POOLING[chosen[0]]
    return "mean"
