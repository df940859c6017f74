"""OpenELM: each layer has its own numbers of heads and its own width. Source: https://arxiv.org/abs/2404.14619."""

from dataclasses import field

from ..nn import GatedMLP, LayerNames, OutProjAttention, named
from .parts import DecoderArgs, DenseModel, ModelNames, refuse


class ModelArgs(DecoderArgs):
    fixed = {"ffn_with_glu": (True,)}
    positive = "num_query_heads", "num_kv_heads", "ffn_multipliers"
    per_layer = dict.fromkeys(positive, ())
    aliases = {
        "num_transformer_layers": "num_hidden_layers", "rope_freq_constant": "rope_theta",
        "max_context_length": "max_position_embeddings", "share_input_output_layers": "tie_word_embeddings",
        "activation_fn_name": "hidden_act",
    }  # fmt: skip
    num_attention_heads: int = 1
    tie_word_embeddings: bool = True
    head_dim: int | None = field()
    num_query_heads: list[int]
    num_kv_heads: list[int]
    ffn_multipliers: list[float]
    ffn_dim_divisor: int = 256
    normalize_qk_projections: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = zip(self.num_query_heads, self.num_kv_heads, strict=False)
        refuse(any(q % k for q, k in heads), "num_query_heads must be multiples of num_kv_heads")

    def layer_heads(self, index: int) -> tuple[int, int, int]:
        return self.num_query_heads[index], self.num_kv_heads[index], self.heads[2]

    def layer_width(self, index: int) -> int:
        """The nearest multiple, at most a tenth too small."""
        by, wanted = self.ffn_dim_divisor, self.ffn_multipliers[index] * self.hidden_size
        size = max(by, int(wanted + by / 2) // by * by)
        return size + by if size < 0.9 * wanted else size


class Model(DenseModel):
    names = ModelNames(backbone="transformer", embed="token_embeddings")
    layer_names = LayerNames("attn", "ffn", "attn_norm", None, "ffn_norm")
    attention_type = OutProjAttention
    attention = {"fused": True}
    qk_norm = "normalize_qk_projections"
    feed_forward_type = named(GatedMLP, fused_name="proj_1", down_name="proj_2")
    feed_forward_options = {"fused": True}
