"""Quantization and conversion."""

from .convert import convert, save
from .quantize import bits_per_weight, dequantize_model, mixed_recipe, quantize_model

__all__ = [
    "bits_per_weight",
    "convert",
    "dequantize_model",
    "mixed_recipe",
    "quantize_model",
    "save",
]
