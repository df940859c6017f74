"""MiniMax-M3's checkpoints, which are multimodal: the text tower. Source: https://huggingface.co/MiniMaxAI."""

from .minimax_m3_vl_text import Model as TextModel
from .minimax_m3_vl_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
    other_towers = TextTower.other_towers + r"|^(model\.)?patch_merge_mlp\."
