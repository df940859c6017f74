"""From a model's source to an engine that runs it.

Contract: `find_files`, `load_tokenizer` and `fingerprint` do file work and belong in a worker thread; `load_engine` and
`adapter_engine` do MLX work and belong on the engine's thread. An adapter's engine shares the arrays of its base.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import hub
from ..embed import EmbeddingModel, is_embedding_config, load_embedding_model
from ..engine import (
    DraftSpeculation,
    Engine,
    HeadSpeculation,
    NGramSpeculation,
    PrefixCache,
    Probe,
    Speculation,
    auto_speculation,
    context_length,
    kv_options,
    new_states,
)
from ..engine.admission import default_budget
from ..engine.memory import MemoryWatch
from ..engine.model_states import predict
from ..engine.speculate.make import check_speculation
from ..errors import ConfigError
from ..models.adapters import load_adapters
from ..models.load import check_config, load_config, load_files_tokenizer, load_model_files
from ..nn.parameters import flat_parameters
from ..state import KVOptions
from .catalog import Source
from .options import ServerSettings
from .prompt import PLAIN_TEMPLATE, ChatStyle

__all__ = [
    "Loaded",
    "LoadedEmbedder",
    "adapter_engine",
    "find_files",
    "fingerprint",
    "is_embedder",
    "load_embedder",
    "load_engine",
    "load_tokenizer",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model that can answer. `engine` belongs to the engine's thread; the rest may be read anywhere."""

    id: str
    files: hub.ModelFiles
    tokenizer: Any
    style: ChatStyle
    engine: Engine
    kv: KVOptions
    weight_bytes: int
    key: str
    speculation: Speculation | None = None

    @property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer."""
        return self.style.context_length


@dataclass(frozen=True)
class LoadedEmbedder:
    """A model that makes vectors. `model` computes on the engine's thread; its `tokens` may be called anywhere."""

    id: str
    files: hub.ModelFiles
    model: EmbeddingModel

    @property
    def context_length(self) -> int:
        """Tokens of one text."""
        return self.model.max_tokens


def find_files(source: Source, settings: ServerSettings) -> hub.ModelFiles:
    """The model's files, fetched if need be: an operator's model always, a client's where `allow_download` lets it."""
    return hub.resolve(
        source.target,
        allow_local=source.local,
        allow_download=source.local or settings.allow_download,
        progress=False,
        trust_remote_code=settings.trust_remote_code,
        check_config=lambda config: None if is_embedding_config(config) else check_config(config),
    )


def is_embedder(files: hub.ModelFiles) -> bool:
    """Whether these are the files of an embedding model."""
    return files.gguf is None and is_embedding_config(load_config(files.folder))


def load_embedder(id: str, files: hub.ModelFiles) -> LoadedEmbedder:
    """Loads an embedding model, on the engine's thread."""
    loaded = LoadedEmbedder(id, files, load_embedding_model(files))
    _log.info("Model %s: embeddings of %d numbers", id, loaded.model.size)
    return loaded


def load_tokenizer(files: hub.ModelFiles, settings: ServerSettings, *, is_default: bool = True) -> Any:
    """The tokenizer of a model's files; the default model's with the operator's chat template, if there is one."""
    config = {} if files.gguf is not None else load_config(files.folder)
    tokenizer = load_files_tokenizer(files, config, None, settings.trust_remote_code)
    if settings.chat_template and is_default:
        tokenizer.chat_template = settings.chat_template  # reasoning and calls are looked for in the same text
    return tokenizer


def fingerprint(files: hub.ModelFiles, adapter: str | None = None) -> str:
    """Identity of the weights, with an adapter's: what computes the prefixes that the cache keeps."""
    key = hub.fingerprint(files.gguf or files.folder)
    if adapter is None:
        return key
    digest = hashlib.sha256(key.encode())
    for name in ("adapter_config.json", "adapters.safetensors"):
        path = Path(adapter).expanduser() / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def load_engine(
    id: str,
    files: hub.ModelFiles,
    tokenizer: Any,
    settings: ServerSettings,
    *,
    key: str,
    cache: PrefixCache | None,
    adapter: str | None = None,
    is_default: bool = True,
) -> Loaded:
    """Loads the weights and makes an engine for them."""
    model, _ = load_model_files(files)
    if adapter is not None:
        load_adapters(model, adapter)
        model.eval()
    return _assemble(id, files, tokenizer, settings, model, key, cache, is_default)


def adapter_engine(
    base: Loaded, id: str, adapter: str, settings: ServerSettings, *, key: str, cache: PrefixCache | None
) -> Loaded:
    """An engine for `base` with an adapter: a second tree of modules over the same arrays.

    The tree is built from the files without reading a weight, then takes the arrays of the base.
    """
    whole = base.engine.model
    mx.eval(whole(mx.array([[0]]), new_states(whole)))  # its first step puts its arrays into their final form
    model, _ = load_model_files(base.files, lazy=True)
    model.update(whole.parameters())
    modules = dict(model.named_modules())
    for path, module in whole.named_modules():
        # What the native kernels keep beside the arrays, and which is no parameter.
        if getattr(module, "interleaved", None) is not None:
            modules[path].interleaved = module.interleaved
    load_adapters(model, adapter)
    model.eval()
    return _assemble(id, base.files, base.tokenizer, settings, model, key, cache, True)


def _assemble(
    id: str,
    files: hub.ModelFiles,
    tokenizer: Any,
    settings: ServerSettings,
    model: Any,
    key: str,
    cache: PrefixCache | None,
    is_default: bool,
) -> Loaded:
    kv = kv_options(settings.kv_bits, settings.kv_group_size, settings.quantized_kv_start, settings.max_kv_size)
    limit = _context(model, settings)
    budget = settings.memory_budget or default_budget(model)
    engine = Engine(
        model,
        max_batch=settings.max_batch_size,
        prefill_step_size=settings.prefill_step_size,
        memory_budget=budget // settings.max_loaded_models,
        prefix_cache=cache,
        model_key=key,
        memory_watch=MemoryWatch(),
    )
    speculation = _speculation(settings, model, is_default)
    weights = sum(value.nbytes for _, value in flat_parameters(model))
    vocabulary = getattr(getattr(model, "args", None), "vocab_size", None) or len(tokenizer)
    plain = settings.use_default_chat_template and not tokenizer.has_chat_template
    style = ChatStyle(
        tokenizer,
        limit,
        vocabulary,
        template=PLAIN_TEMPLATE if plain else None,
        variables=settings.chat_template_args,
        max_tokens=None if settings.max_tokens == -1 else settings.max_tokens,
    )
    _report(id, tokenizer, model, limit, kv, weights)
    return Loaded(id, files, tokenizer, style, engine, kv, weights, key, speculation)


def _speculation(settings: ServerSettings, model: Any, is_default: bool) -> Speculation | None:
    """How tokens are guessed ahead. Raises UnsupportedError for what this model cannot have."""
    found: Speculation | None = None
    if settings.draft_model is not None and is_default:
        files = find_files(Source("draft model", settings.draft_model), settings)
        found = DraftSpeculation(load_model_files(files)[0], settings.num_draft_tokens)
    elif settings.speculation == "ngram":
        found = NGramSpeculation(probe=Probe())
    elif settings.speculation == "mtp":
        found = HeadSpeculation(probe=Probe())
    elif settings.speculation == "auto":
        found = auto_speculation(model)
    check_speculation(model, found)
    return found


def _context(model: Any, settings: ServerSettings) -> int | None:
    """Tokens of context that apply: the operator's number, at most the model's positions."""
    positions, wanted = context_length(model), settings.max_context_length
    if wanted is None or positions is None:
        return positions if wanted is None else wanted
    if wanted > positions:
        raise ConfigError(f"max_context_length is {wanted:,}, but the model has {positions:,} positions.")
    return wanted


def _report(id: str, tokenizer: Any, model: Any, limit: int | None, kv: KVOptions, weights: int) -> None:
    """What applies, in the log: the context, and the bytes that it is planned to take."""
    own = getattr(tokenizer, "model_max_length", None)
    _log.info("Model %s: %.2f GB of weights", id, weights / 1e9)
    if limit is None:
        return
    _log.info("Tokenizer max length: %s tokens", f"{limit:,}")
    if isinstance(own, int) and own < limit:
        _log.info("The tokenizer's own limit of %s tokens does not apply: the model has more positions", f"{own:,}")
    bits = "as computed" if kv.bits is None else f"{kv.bits} bit in groups of {kv.group_size}"
    planned = predict(model, limit, kv)
    _log.info("Cache of one full context: %.2f GB planned for %s tokens, %s", planned / 1e9, f"{limit:,}", bits)
