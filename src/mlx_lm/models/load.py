"""From a model's name to a model and its tokenizer.

The config is read and checked before any weight is downloaded or mapped; every file's header is verified before its
bytes reach MLX.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import hub
from ..ahead import Ahead
from ..errors import ConfigError, ModelFileError, ModelNotFoundError, RemoteCodeError
from ..hub.gguf import GGUFFile
from ..hub.gguf import read as read_gguf
from ..kernels import native
from ..tokenizer import TokenizerWrapper, load_tokenizer, tokenizer_from_gguf
from .adapters import load_adapters
from .base import CausalLM, state_dtype
from .build import build_model
from .formats import convert_checkpoint, quantization_settings
from .registry import get_classes

__all__ = [
    "check_config", "load", "load_config", "load_files", "load_files_tokenizer", "load_model", "load_model_files",
]  # fmt: skip

_QUANTIZATION_FILES = MappingProxyType(
    {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
)

_READ_BYTES = 32 << 20  # in one turn
_SMALL_BYTES = 256 << 20


def load(
    path_or_hf_repo: str | Path,
    tokenizer_config: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
    adapter_path: str | Path | None = None,
    lazy: bool = False,
    return_config: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, ...]:
    """A model and its tokenizer, by folder, GGUF file, Hugging Face id or packaged name.

    Args:
        tokenizer_config: settings that override the tokenizer's own.
        model_config: keys that override those of config.json.
        adapter_path: folder of a LoRA adapter in mlx-lm's layout.
        lazy: leave the weights unread until they are used.
        return_config: also return the config.
        revision: branch, tag or commit of a Hugging Face repository.
        trust_remote_code: let a tokenizer that needs its own Python code run it.

    Returns:
        (model, tokenizer), or (model, tokenizer, config).

    Raises:
        ModelNotFoundError, DownloadError, ModelFileError, ConfigError, WeightsError, TokenizerError, AdapterError.
    """
    overrides = dict(model_config or {})
    files = hub.resolve(
        str(path_or_hf_repo),
        revision=revision,
        check_config=lambda c: check_config(c, overrides),
        trust_remote_code=trust_remote_code,
    )
    model, tokenizer, config = load_files(
        files,
        tokenizer_config=tokenizer_config,
        model_config=overrides,
        adapter_path=adapter_path,
        lazy=lazy,
        trust_remote_code=trust_remote_code,
    )
    return (model, tokenizer, config) if return_config else (model, tokenizer)


def load_files(
    files: hub.ModelFiles,
    *,
    tokenizer_config: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
    adapter_path: str | Path | None = None,
    lazy: bool = False,
    trust_remote_code: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[CausalLM, TokenizerWrapper, dict[str, Any]]:
    """As `load`, for files that were found already.

    The tokenizer is read while MLX reads the weights: the one holds Python's lock, the other does not. `meanwhile` is
    called after it on the same thread, as a caller's chance to import what it will use.
    """
    header = None if files.gguf is None else read_gguf(files.gguf)
    begun: list[Ahead[TokenizerWrapper]] = []

    def read_tokenizer() -> TokenizerWrapper:
        config = {} if files.gguf is not None else load_config(files.folder) | dict(model_config or {})
        return load_files_tokenizer(files, config, tokenizer_config, trust_remote_code, header=header)

    def begin() -> None:
        begun.append(Ahead(read_tokenizer, then=meanwhile))

    # What transformers might do, a model's own code included, may need the main thread: only plain files are read here.
    plain = files.gguf is not None or (files.folder / "tokenizer.json").is_file()
    try:
        model, config = load_model_files(
            files, lazy=lazy, model_config=model_config, header=header, before_reading=begin if plain else None
        )
        if adapter_path is not None:
            load_adapters(model, adapter_path)
            model.eval()
        tokenizer = begun[0].result() if begun else read_tokenizer()
    finally:
        for ahead in begun:
            ahead.settle()
    return model, tokenizer, config


def load_model(
    model_path: str | Path,
    lazy: bool = False,
    strict: bool = True,
    model_config: Mapping[str, Any] | None = None,
    get_model_classes: Any = get_classes,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a local folder or GGUF file, and its config.

    `strict` is kept for callers of mlx-lm; weights are always checked. `get_model_classes` maps a config to
    (Model, ModelArgs).
    """
    if not strict:
        raise ConfigError("strict=False is not supported: a model with missing or unexpected weights is not loaded.")
    files = hub.resolve(str(model_path), allow_download=False, trust_remote_code=trust_remote_code)
    return load_model_files(files, lazy=lazy, model_config=model_config, get_model_classes=get_model_classes)


def load_model_files(
    files: hub.ModelFiles,
    *,
    lazy: bool = False,
    model_config: Mapping[str, Any] | None = None,
    get_model_classes: Any = get_classes,
    keep_dtypes: bool = False,
    header: GGUFFile | None = None,
    before_reading: Callable[[], object] | None = None,
) -> tuple[CausalLM, dict[str, Any]]:
    """As `load_model`, for files that were found already.

    `keep_dtypes` leaves every tensor as it is stored; `header` is that of a GGUF file, if it was read already;
    `before_reading` is called once, before MLX goes on to read the weights.
    """
    if files.gguf is not None:
        config, weights, quantization = hub.load_gguf(header or files.gguf)
        config |= dict(model_config or {})
        if quantization:
            config["quantization"] = quantization
    else:
        config = load_config(files.folder) | dict(model_config or {})
        check_config(config)
        config, weights = convert_checkpoint(config, hub.load_folder(files.folder))
    model_class, _ = get_model_classes(config)
    if issubclass(model_class, CausalLM):
        weights = model_class.complete(config, weights, lambda: load_files_tokenizer(files, config))
    model = build_model(config, weights, get_model_classes=get_model_classes)
    del weights  # what was converted or stacked is let go as soon as it is computed
    if not keep_dtypes and native.on_cpu() and isinstance(model, CausalLM):
        _compute_on_cpu(model)
    if not lazy:
        if before_reading is not None:
            before_reading()
        _read(model)
        if not keep_dtypes and native.extension() is not None and isinstance(model, CausalLM):
            model.interleave_head()
    return model, config


def _read(model: nn.Module) -> None:
    """Reads the weights, some at a time: a conversion has large temporaries. A small model's are read in one turn: each
    turn waits for Python's lock, which the tokenizer holds for most of that time."""
    flat: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment]
    small = sum(parameter.nbytes for _, parameter in flat) <= _SMALL_BYTES
    part: list[mx.array] = []
    size = 0
    for _, parameter in flat:
        part.append(parameter)
        size += parameter.nbytes
        if not small and (size >= _READ_BYTES or len(part) >= 256):
            mx.eval(part)
            part, size = [], 0
    mx.eval(part)


def load_config(folder: str | Path) -> dict[str, Any]:
    """The folder's config.json, with the end tokens of generation_config.json in place of its own.

    How ModelOpt, AutoGPTQ or AutoAWQ quantized the weights may stand in a file of its own; it is read as
    `quantization_config`.

    Raises:
        ModelNotFoundError: there is no config.json.
        ModelFileError: it is not a JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelNotFoundError(f"{path} does not exist: {folder} is not a model folder.")
    config = _json_object(path)
    generation = Path(folder) / "generation_config.json"
    if generation.is_file():
        eos = _json_object(generation).get("eos_token_id")
        if eos is not None:
            config["eos_token_id"] = eos
    if not config.keys() & {"quantization", "quantization_config"}:
        own = ((Path(folder) / name, method) for name, method in _QUANTIZATION_FILES.items())
        for file, method in own:
            if file.is_file():
                config["quantization_config"] = {**_quantization_file(file), "quant_method": method}
                break
    return config


def _quantization_file(file: Path) -> dict[str, Any]:
    settings = _json_object(file)
    if file.name == "hf_quant_config.json":
        settings = settings.get("quantization")
    if not isinstance(settings, dict):
        raise ModelFileError(f"{file} has no object named quantization.")
    return settings


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} must hold a JSON object.")
    return _untag(value)


def _untag(value: Any) -> Any:
    """Turns {"__float__": "Infinity"}, as transformers writes what JSON cannot, into the number."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {k: _untag(v) for k, v in value.items()}
    return [_untag(v) for v in value] if isinstance(value, list) else value


def check_config(config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> None:
    """Refuses a config that no family can read, before its weights are fetched.

    Raises:
        ConfigError: the config, or its model type, is not supported.
        RemoteCodeError: it names Python code of its own.
    """
    config = {**config, **(overrides or {})}
    if "model_file" in config:
        raise RemoteCodeError(
            "config.json names a model_file: Python code of its own. This package never runs code of a model; "
            "remove the entry if the architecture is a supported one."
        )
    _, args_class = get_classes(config)
    args_class.from_dict(config)
    quantization_settings(config)


def _compute_on_cpu(model: CausalLM) -> None:
    """A CPU computes in float32 whatever half type the weights are stored in, which is faster and more exact.

    The native kernels read half types as they are, and keep keys and values in them; MLX's own operations are 5 to
    30 times slower on half types, so without the kernels everything small is float32.
    """
    half = (mx.float16, mx.bfloat16)
    stored = state_dtype(model)
    if stored not in half:
        return
    if native.extension() is not None:
        model.compute_in(mx.float32, stored)
        return
    model.compute_in(mx.float32)
    small = 2**26
    model.apply(lambda w: w.astype(mx.float32) if w.dtype in half and w.size < small else w)


def load_files_tokenizer(
    files: hub.ModelFiles,
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    *,
    header: GGUFFile | None = None,
) -> TokenizerWrapper:
    """The tokenizer of files that were found already; `config` names the end tokens, `header` as `load_model_files`."""
    settings = dict(tokenizer_config or {})
    if files.gguf is not None:
        return tokenizer_from_gguf((header or read_gguf(files.gguf)).metadata, tokenizer_config=settings)
    return load_tokenizer(
        files.folder,
        tokenizer_config=settings,
        eos_token_ids=config.get("eos_token_id"),
        trust_remote_code=trust_remote_code,
    )
