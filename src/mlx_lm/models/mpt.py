"""MPT: ALiBi, no biases, queries, keys and values limited in size. Source: https://www.databricks.com/blog/mpt-7b."""

from ..nn import MLP, AlibiAttention, LayerNames, named
from .parts import DecoderArgs, DenseModel, ModelNames


class ModelArgs(DecoderArgs):
    fixed = {
        "no_bias": (True,), "prefix_lm": (False,), "qk_ln": (False,), "alibi": (True,),
        "attn_type": ("multihead_attention",),
    }  # fmt: skip
    nested = {"attn_config": {}}
    aliases = {"softmax_scale": "attention_multiplier"}
    feed_forward_ratio = 4
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True
    clip_qkv: float | None = None
    attention_multiplier: float | None = None


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="wte", layers="blocks", norm="norm_f")
    layer_names = LayerNames("attn", "ffn", "norm_1", None, "norm_2")
    attention_type = named(AlibiAttention, qkv_name="Wqkv", out_name="out_proj")
    attention = {"rope": None, "fused": True}
    feed_forward_type = MLP
    norm_options = {"bias": False}
