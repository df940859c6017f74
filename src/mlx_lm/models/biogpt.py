"""BioGPT: learned positions, scaled embeddings, biases everywhere. Source: https://arxiv.org/abs/2210.10341."""

from ..nn import LayerNames, OutProjAttention, named
from .opt import FeedForward
from .parts import DecoderArgs, DenseModel, ModelNames, Rename
from .positions import LearnedPositions


class ModelArgs(DecoderArgs):
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    scale_embedding: bool = True


class Model(DenseModel):
    """The feed-forward's `fc1` and `fc2` stand in the layer in Hugging Face's checkpoints, in `mlp` here."""

    names = ModelNames(backbone="biogpt", norm="layer_norm", head="output_projection")
    layer_names = LayerNames(pre_mixer="self_attn_layer_norm", pre_feed_forward="final_layer_norm")
    attention_type = OutProjAttention
    backbone_type = named(LearnedPositions, position_name="embed_positions", first_row=2)
    scaled_embedding = "scale_embedding"
    feed_forward_type = FeedForward
    feed_forward_options = {"bias": True}
    attention = {"rope": None, "bias": True, "out_bias": True}
    rules = (Rename(r"(\.layers\.\d+)\.(fc1|fc2)\.", r"\1.mlp.\2."),)
