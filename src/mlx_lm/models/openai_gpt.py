"""GPT-1: GPT-2 with norms after the sums and none at the end. https://openai.com/index/language-unsupervised."""

from typing import Any

import mlx.nn as nn

from ..nn import NormedSumLayer, named
from . import gpt2
from .parts import ModelNames, Rename, Transform
from .positions import LearnedPositions


class ModelArgs(gpt2.ModelArgs):
    aliases = {"afn": "hidden_act"}
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512

    def __post_init__(self) -> None:
        self.hidden_act = "gelu_new" if self.hidden_act == "gelu" else self.hidden_act  # the family means the tanh form
        super().__post_init__()


class Model(gpt2.Model):
    names = ModelNames(embed="tokens_embed", layers="h")
    layer_type = NormedSumLayer
    backbone_type = named(LearnedPositions, position_name="positions_embed")
    rules = (
        Transform(r"^(transformer\.)?h\.\d+\..*(c_attn|c_proj|c_fc)\.weight$", lambda w: w.T),
        Rename(r"^(transformer\.)?(h|tokens_embed|positions_embed)\.", r"model.\2."),
    )

    def final_norm(self, args: Any) -> nn.Module:
        return nn.Identity()
