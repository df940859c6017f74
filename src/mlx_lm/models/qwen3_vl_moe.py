"""Qwen3-VL with experts: the text tower, whose expert weights always sum to one. https://arxiv.org/abs/2511.21631."""

from .multimodal import TextTower
from .qwen3_moe import Model as TextModel
from .qwen3_moe import ModelArgs as TextArgs


class ModelArgs(TextArgs):
    norm_topk_prob: bool = True


class Model(TextTower):
    text_model = TextModel
