"""GPT-NeoX, Pythia: parallel branches, projections fused head by head. Source: https://arxiv.org/abs/2204.06745."""

from ..nn import MLP, HeadwiseAttention, LayerNames, named
from .parts import DecoderArgs, DenseModel, ModelNames, Rename


class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-5
    hidden_act: str = "gelu"
    partial_rotary_factor: float = 0.25
    use_parallel_residual: bool = True
    attention_bias: bool = True

    def __post_init__(self) -> None:
        self.num_key_value_heads = None  # the family has no groups
        super().__post_init__()


FeedForward = named(MLP, up_name="dense_h_to_4h", down_name="dense_4h_to_h")


class Model(DenseModel):
    names = ModelNames(embed="embed_in", layers="h", norm="final_layer_norm", head="embed_out")
    layer_names = LayerNames(mixer="attention")
    attention_type = named(HeadwiseAttention, qkv_name="query_key_value", out_name="dense")
    attention = {"fused": True}
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
    parallel = "use_parallel_residual"
    rules = (
        Rename(r"^gpt_neox\.", "model."),
        Rename(r"^model\.layers\.", "model.h."),
        Rename(r"^(model\.embed_out|lm_head)\.", "embed_out."),
    )
