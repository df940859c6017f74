"""OLMo 2: norms after the branches, and on all heads of queries and keys together. https://arxiv.org/abs/2501.00656."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..nn import POST_NORM, AttentionOptions, RMSNorm
from .config import DecoderArgs
from .dense import DenseModel


@dataclass
class ModelArgs(DecoderArgs):
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False


class Model(DenseModel):
    layer_names = POST_NORM

    @classmethod
    def attention_options(cls, args: Any, index: int, **changes: Any) -> AttentionOptions:
        norm = partial(RMSNorm, eps=args.rms_norm_eps)
        return super().attention_options(args, index, qk_norm=norm, qk_norm_full=True, **changes)
