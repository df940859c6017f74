"""Converting a model into mlx-lm's layout: cast, quantize, dequantize, write, and optionally upload."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .. import hub
from ..errors import RequestError
from ..hub.save import copy_side_files, model_card, new_folder, save_config, save_weights
from ..hub.upload import upload
from ..models.build import quantization_of
from ..models.describe import dense_parameters
from ..models.formats import quantization_settings
from ..models.load import check_config, load_config, load_files_tokenizer, load_model_files
from ..state import dtype_name
from .quantize import (
    Predicate,
    bits_per_weight,
    cast_model,
    dequantize_model,
    mixed_recipe,
    quantize_model,
)

__all__ = ["convert", "save"]

_DTYPES = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}


def convert(
    hf_path: str | Path,
    mlx_path: str | Path = "mlx_model",
    quantize: bool = False,
    q_group_size: int | None = None,
    q_bits: int | None = None,
    q_mode: str = "affine",
    dtype: str | None = None,
    upload_repo: str | None = None,
    revision: str | None = None,
    dequantize: bool = False,
    quant_predicate: Predicate | str | None = None,
    trust_remote_code: bool = False,
    *,
    progress: Callable[[str], object] | None = None,
) -> None:
    """Writes the model `hf_path` (folder, GGUF file, Hugging Face id or packaged name) to the new folder `mlx_path`.

    Args:
        quantize: pack the weights to `q_bits` in groups of `q_group_size` (defaults by mode: affine 4 and 64).
            A model that is quantized already is dequantized first.
        dtype: "float16", "bfloat16" or "float32"; default: what the config names, else what the weights have.
        upload_repo: Hugging Face id to upload the result to.
        quant_predicate: a recipe's name ("mixed_3_6", ...), or `f(path, module[, config])` that returns whether or
            how a layer is quantized.
        progress: called with a line of text at each stage.

    Raises:
        RequestError: options contradict each other.
        ModelFileError: `mlx_path` exists.
    """
    say = progress or (lambda _: None)
    if quantize and dequantize:
        raise RequestError("Choose quantize or dequantize, not both.")
    if dtype is not None and dtype not in _DTYPES:
        raise RequestError(f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}.")
    if not quantize and (q_bits is not None or q_group_size is not None or quant_predicate is not None):
        raise RequestError("q_bits, q_group_size and quant_predicate need quantize=True (-q).")
    if isinstance(quant_predicate, str) and q_mode != "affine":
        raise RequestError(f"Recipe {quant_predicate!r} is for the affine mode, not {q_mode!r}.")
    with new_folder(mlx_path) as folder:
        files = hub.resolve(
            str(hf_path), revision=revision, check_config=check_config, trust_remote_code=trust_remote_code
        )
        say(f"Loading {hf_path}")
        model, config = load_model_files(files, lazy=True, keep_dtypes=True)
        packed = quantization_of(config) is not None
        foreign = files.gguf is None and quantization_settings(load_config(files.folder)) is not None
        if dequantize and not packed and not foreign:
            raise RequestError(f"{hf_path} is not quantized: there is nothing to dequantize.")
        if packed and quantize:
            say("The model is quantized already: it is dequantized first, which does not bring back what was lost")
        target = _DTYPES[dtype] if dtype is not None else _config_dtype(config)
        if packed and (quantize or dequantize):
            model = dequantize_model(model, target)
            config = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config")}
            packed = False
        if target is not None and (not packed or dtype is not None):
            model = cast_model(model, target)
            config["torch_dtype"] = dtype_name(target)
        if quantize:
            recipe = quant_predicate
            if isinstance(recipe, str):
                recipe = mixed_recipe(recipe, model, q_group_size)
            model, config = quantize_model(model, config, q_group_size, q_bits, q_mode, recipe)
        say(f"Writing {mlx_path} ({bits_per_weight(model):.3f} bits per weight)")
        tokenizer = None if files.gguf is None else load_files_tokenizer(files, config)
        _write(folder, files, model, tokenizer, config, name=upload_repo or Path(mlx_path).name, donate=True)
    if upload_repo is not None:
        say(f"Uploading to {upload_repo}")
        upload(Path(mlx_path), upload_repo)


def save(
    dst_path: str | Path,
    src_path_or_repo: str | Path,
    model: nn.Module,
    tokenizer: Any,
    config: dict[str, Any],
    donate_model: bool = True,
) -> None:
    """Writes a model, its tokenizer and config to the new folder `dst_path`.

    With `donate_model` the model's parameters are let go as they are written, which halves the memory needed.
    """
    files = hub.resolve(str(src_path_or_repo), allow_download=False)
    with new_folder(dst_path) as folder:
        _write(folder, files, model, tokenizer, config, name=Path(dst_path).name, donate=donate_model)


def _config_dtype(config: dict[str, Any]) -> mx.Dtype | None:
    text = config.get("text_config") or {}
    named = [place.get(key) for place in (config, text) for key in ("torch_dtype", "dtype")]
    return next((_DTYPES[str(n)] for n in named if str(n) in _DTYPES), None)


def _write(
    folder: Path,
    files: hub.ModelFiles,
    model: nn.Module,
    tokenizer: Any,
    config: dict[str, Any],
    *,
    name: str,
    donate: bool,
) -> None:
    if files.gguf is None:
        copy_side_files(files.folder, folder)
    else:
        tokenizer.save_pretrained(folder)
    base = files.name if files.source == "hub" else None
    card = model_card(name, source=files.name, base=base, quantization=config.get("quantization"))
    (folder / "README.md").write_text(card, encoding="utf-8")
    parameters = dense_parameters(model)
    weights = dict(tree_flatten(model.parameters()))
    if donate:
        _forget(model)
    save_weights(folder, weights, total_parameters=parameters)
    save_config(folder, config)


def _forget(model: nn.Module) -> None:
    """Drops the model's own references, so that a written tensor's memory is free at once."""
    for _, module in model.named_modules():
        for name in [k for k, v in module.items() if isinstance(v, mx.array)]:
            del module[name]
