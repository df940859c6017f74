"""GPT-2: learned positions, fused projections stored transposed. https://openai.com/index/better-language-models."""

from ..nn import Attention, LayerNames, named
from .base import DecoderArgs, ModelNames
from .dense import DenseModel
from .positions import LearnedPositions
from .starcoder2 import FeedForward
from .weights import Rename, Transform


class ModelArgs(DecoderArgs):
    feed_forward_ratio = 4
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    def attention_scale(self, index: int) -> float:
        scale = self.heads[2] ** -0.5 if self.scale_attn_weights else 1.0
        return scale / (index + 1) if self.scale_attn_by_inverse_layer_idx else scale


FusedAttention = named(Attention, qkv_name="c_attn", out_name="c_proj")


class Model(DenseModel):
    names = ModelNames(embed="wte", layers="h", norm="ln_f")
    layer_names = LayerNames("attn", "mlp", "ln_1", None, "ln_2")
    attention_type = FusedAttention
    backbone_type = LearnedPositions
    attention = {"rope": None, "fused": True, "bias": True, "out_bias": True}
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
    rules = (
        Transform(r"^(transformer\.)?h\.\d+\..*(c_attn|c_proj|c_fc)\.weight$", lambda w: w.T),
        Rename(r"^(transformer\.)?(h|wte|wpe|ln_f)\.", r"model.\2."),
    )
