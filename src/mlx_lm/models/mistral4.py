"""Mistral 4: latent attention with queries that grow with their position, experts by softmax. https://mistral.ai."""

from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..nn import LatentAttention, RopeParameters
from . import deepseek_v3
from .ministral3 import Growth


class ModelArgs(deepseek_v3.ModelArgs):
    fixed = {}
    max_position_embeddings: int = 1048576
    q_lora_rank: int | None = 1024
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    n_routed_experts: int | None = 128
    num_experts_per_tok: int | None = 4
    first_k_dense_replace: int = 0
    n_group: int | None = 1
    topk_group: int | None = 1
    routed_scaling_factor: float = 1.0
    partial_rotary_factor: float = 1.0  # the share that `qk_rope_head_dim` is, which is rotated as a whole

    def rope_parameters(self, layer_type: str | None = None) -> RopeParameters:
        return replace(super().rope_parameters(layer_type), partial=1.0)


class GrowingLatentAttention(Growth, LatentAttention):
    def _project(self, x: mx.array, position: int | mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        queries, rope_queries, latents, rope_keys = super()._project(x, position)
        growth = self.growth(queries, position)
        return queries * growth, rope_queries * growth, latents, rope_keys


class Model(deepseek_v3.Model):
    routing_options = {"score": "softmax"}
    moe_options = {}

    def mixer(self, args: Any, index: int) -> LatentAttention:
        mixer = GrowingLatentAttention(self.latent_options(args, index))
        mixer.read_growth(args)
        return mixer
