"""What a server of these settings would serve, and the memory that it would take; reads no weight."""

from __future__ import annotations

from ..engine import context_length, kv_options
from ..engine.model_states import predict
from ..models.load import load_model_files
from ..nn.parameters import flat_parameters
from .catalog import Catalog
from .loading import find_files, is_embedder
from .options import ServerSettings

__all__ = ["describe"]


def describe(settings: ServerSettings) -> str:
    """A few lines for each model. Raises what finding and reading a model raises."""
    lines: list[str] = []
    kv = kv_options(settings.kv_bits, settings.kv_group_size, settings.quantized_kv_start, settings.max_kv_size)
    bits = "as computed" if kv.bits is None else f"{kv.bits} bits in groups of {kv.group_size}"
    for source in Catalog(settings).sources.values():
        files = find_files(source, settings)
        if is_embedder(files):
            lines += [f"{source.id}", "  an embedding model: it keeps nothing between requests"]
            continue
        model, _ = load_model_files(files, lazy=True)
        weights = sum(value.nbytes for _, value in flat_parameters(model))
        limit = settings.max_context_length or context_length(model)
        lines += [f"{source.id}", f"  weights   {weights / 1e9:.2f} GB"]
        if limit is not None:
            planned = predict(model, limit, kv)
            lines.append(f"  context   {limit:,} tokens")
            lines.append(
                f"  cache     {planned / 1e9:.2f} GB for one full context ({planned / limit:,.0f} bytes a token)"
            )
            lines.append(f"            keys and values {bits}")
    lines.append(f"prefixes    {settings.prompt_cache_bytes / 1e9:.2f} GB in memory")
    if settings.disk_prompt_cache_dir is not None:
        lines.append(f"            {settings.disk_prompt_cache_bytes / 1e9:.2f} GB in {settings.disk_prompt_cache_dir}")
    return "\n".join(lines)
