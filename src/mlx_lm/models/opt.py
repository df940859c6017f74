"""OPT: learned positions, biased layer norms before or after the sums. Source: https://arxiv.org/abs/2205.01068."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..nn import DecoderLayer, Embedding, LayerNames, LayerNorm, Linear, NormedSumLayer, OutProjAttention
from .parts import Cache, CausalLM, DecoderArgs, DenseModel, ModelNames, Rename, refuse
from .phi import FeedForward
from .positions import LearnedPositions


class ModelArgs(DecoderArgs):
    aliases = {"_remove_final_layer_norm": "remove_final_layer_norm", "enable_bias": "use_bias"}
    layer_norm_eps: float = 1e-5
    hidden_act: str = "relu"
    tie_word_embeddings: bool = True
    use_bias: bool = True
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = False
    layer_norm_elementwise_affine: bool = True
    word_embed_proj_dim: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.word_embed_proj_dim = self.word_embed_proj_dim or self.hidden_size
        narrow = self.word_embed_proj_dim != self.hidden_size
        refuse(narrow and not self.tie_word_embeddings, "word_embed_proj_dim needs tie_word_embeddings for 'opt'")


class OptBackbone(LearnedPositions):
    """Embeddings may be narrower than the layers."""

    position_name, first_row = "embed_positions", 2

    def __init__(self, model: CausalLM, args: Any):
        super().__init__(model, args)
        size = args.word_embed_proj_dim
        if size != args.hidden_size:
            self.embed_tokens = Embedding(args.vocab_size, size)
            self.project_in = Linear(size, args.hidden_size, bias=False)
            self.project_out = Linear(args.hidden_size, size, bias=False)

    def through(self, h: mx.array, cache: Cache, inputs: mx.array) -> mx.array:
        h = super().through(h, cache, inputs)
        return self.project_out(h) if "project_out" in self else h

    def narrow(self, h: mx.array) -> mx.array:
        return self.project_in(h) if "project_in" in self else h


class Model(DenseModel):
    """The feed-forward's `fc1` and `fc2` stand in the layer in Hugging Face's checkpoints, in `mlp` here."""

    names = ModelNames(norm="final_layer_norm")
    layer_names = LayerNames(pre_mixer="self_attn_layer_norm", pre_feed_forward="final_layer_norm")
    attention_type = OutProjAttention
    backbone_type = OptBackbone
    attention = {"rope": None}
    feed_forward_type = FeedForward
    rules = (
        Rename(r"^(model\.)?decoder\.", "model."),
        Rename(r"^(model\.layers\.\d+)\.(fc1|fc2)\.", r"\1.mlp.\2."),
    )

    def layer_type_at(self, args: Any, index: int) -> type[DecoderLayer]:
        return DecoderLayer if args.do_layer_norm_before else NormedSumLayer

    def norm(self, args: Any) -> nn.Module:
        return LayerNorm(args.hidden_size, args.layer_norm_eps, affine=args.layer_norm_elementwise_affine)

    def final_norm(self, args: Any) -> nn.Module:
        return self.norm(args) if args.do_layer_norm_before and not args.remove_final_layer_norm else nn.Identity()
