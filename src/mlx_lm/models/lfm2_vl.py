"""LFM2-VL: the text tower, an LFM2. Source: https://huggingface.co/LiquidAI/LFM2-VL-1.6B."""

from . import lfm2
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, lfm2)
