"""Qwen3-Next: gated delta layers, gated attention, experts beside a shared one, a next-token head.

Sources: https://arxiv.org/abs/2412.06464, https://arxiv.org/abs/2505.06708, https://arxiv.org/abs/2412.19437.
"""

import re
from dataclasses import dataclass, field

import mlx.core as mx

from ..nn import DecoderLayer, DeltaOptions, GatedDelta, LayerNames, NextTokenHead
from ..state import PLAIN_KV, KVOptions, LayerState, State
from .parts import DenseModel, LinearArgs, block_options, expert_rules, refuse
from .qwen2_moe import Experts
from .weights import Weights


class ModelArgs(LinearArgs):
    multiples = {"linear_num_value_heads": "linear_num_key_heads"}
    head_dim: int | None = 256
    max_position_embeddings: int = 32768
    partial_rotary_factor: float = 0.25
    attention_bias: bool = False
    full_attention_interval: int = 4
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    num_experts: int = 512
    num_experts_per_tok: int = 10
    moe_intermediate_size: int = 512
    shared_expert_intermediate_size: int = 512
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=list)
    norm_topk_prob: bool = True
    fused = True  # how checkpoints keep the projections of gated delta layers, see `DeltaOptions.fused`

    def attends(self, index: int) -> bool:
        return (index + 1) % self.full_attention_interval == 0

    def linear_options(self) -> DeltaOptions:
        return block_options(DeltaOptions, self, fused=self.fused)


@dataclass(frozen=True)
class AddOne:
    """Published norms are stored around 0 and applied as 1 + weight; mlx-lm's checkpoints hold 1 + weight.

    Which of the two a checkpoint is shows in the layout of its convolutions; without any, in the final norm's values.
    """

    pattern: str

    def __call__(self, weights: Weights) -> Weights:
        kernels = [v for k, v in weights.items() if k.endswith("conv1d.weight")]
        found = [v for k, v in weights.items() if re.search(r"model\.norm\.weight$", k)]
        if kernels:
            published = kernels[0].shape[-1] != 1
        else:
            published = bool(found) and bool((mx.mean(found[0].astype(mx.float32)) < 0.5).item())
        if not published:
            return weights
        return {k: v + 1 if re.search(self.pattern, k) else v for k, v in weights.items()}


class Model(DenseModel):
    linear_names = LayerNames("linear_attn")
    linear_type = GatedDelta
    attention = {"gated": True}
    moe_type = Experts
    moe_options = {"shared_gate": True}
    qk_norm = True
    rules = (
        AddOne(r"(?<!linear_attn\.)(norm|norm_embedding|norm_hidden|layernorm)\.weight$"),
        *expert_rules(),
    )

    def sanitize(self, weights: Weights) -> Weights:
        """As for every model; a checkpoint with a next-token head (`mtp.*`) also gives the model one."""
        weights = super().sanitize(weights)
        self.add_next_token_head(weights)
        return weights

    def add_next_token_head(self, weights: Weights) -> None:
        """Adds the head `mtp` whose tensors `weights` has, under the model's own names, or none."""
        depths = {int(m[1]) for name in weights if (m := re.match(r"(?:language_model\.)?mtp\.layers\.(\d+)\.", name))}
        if depths:
            layers = [self.next_token_layer() for _ in range(len(depths))]
            self.mtp = NextTokenHead(self.args.hidden_size, layers, lambda: self.norm(self.args))

    def next_token_layer(self) -> DecoderLayer:
        """A layer of the head: attention, whatever the model's own layers at that place are."""
        full = [i for i in range(self.args.num_hidden_layers) if not self.args.is_linear(i)]
        refuse(not full, "a checkpoint with a next-token head needs a full_attention layer")
        return self.layer(self.args, full[0])

    def draft(self, hidden: mx.array, tokens: mx.array, cache: list[LayerState] | None = None) -> mx.array:
        """Hidden states (B, L, D) of the tokens after `tokens` (B, L), which follow final states `hidden` (B, L, D).

        `logits` turns them into predictions. `cache` is the head's own, from `make_draft_cache`.
        """
        return self.mtp(hidden, self[self.names.backbone][self.names.embed](tokens), cache)

    def make_draft_cache(self, options: KVOptions = PLAIN_KV) -> list[State]:
        """Fresh states of the next-token head for one sequence."""
        return self.mtp.make_cache(options)
