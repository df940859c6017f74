"""MiniMax-M3's checkpoints, which are multimodal: the text tower. Source: https://huggingface.co/MiniMaxAI."""

from . import minimax_m3_vl_text
from .multimodal import TextTower

ModelArgs = minimax_m3_vl_text.ModelArgs


class Model(TextTower):
    text_model = minimax_m3_vl_text.Model
    other_towers = TextTower.other_towers + r"|^(model\.)?patch_merge_mlp\."
