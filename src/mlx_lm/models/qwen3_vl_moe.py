"""Qwen3-VL with experts: the text tower, whose expert weights always sum to one. https://arxiv.org/abs/2511.21631."""

from . import qwen3_moe
from .multimodal import TextTower


class ModelArgs(qwen3_moe.ModelArgs):
    norm_topk_prob: bool = True


class Model(TextTower):
    text_model = qwen3_moe.Model
