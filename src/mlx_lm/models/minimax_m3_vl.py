"""MiniMax-M3's checkpoints, which are multimodal: the text tower. Source: https://huggingface.co/MiniMaxAI."""

from . import minimax_m3_vl_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, minimax_m3_vl_text)
