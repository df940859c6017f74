"""HyperCLOVA X: Granite's multipliers (logits are multiplied), norms around both branches. https://arxiv.org/abs/2506.22403."""

from typing import Any

from ..nn import LayerNames
from . import granite


class ModelArgs(granite.ModelArgs):
    attention_multiplier: float | None = None  # type: ignore[assignment]
    use_post_norm: bool = True


class Model(granite.Model):
    def names_at(self, args: Any, index: int) -> LayerNames:
        after = {"post_mixer": "post_norm1", "post_feed_forward": "post_norm2"}
        return LayerNames(**after) if args.use_post_norm else LayerNames()

    def logit_scale(self, args: Any) -> float:
        return args.logits_scaling
