"""Qwen3-VL with experts: the text tower, whose expert weights always sum to one. https://arxiv.org/abs/2511.21631."""

from . import qwen3_moe
from .multimodal import text_tower


class ModelArgs(qwen3_moe.ModelArgs):
    norm_topk_prob: bool = True


Model, _ = text_tower(__name__, qwen3_moe)
