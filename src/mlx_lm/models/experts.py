"""Experts and routing from the names that configs have for them; knows no family."""

from typing import Any, TypeVar

from ..nn import GatedMLP, MoE, Routing, SwitchGLU

__all__ = ["gated_moe", "grouped_routing"]

_COUNTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
_SHARED = ("num_shared_experts", "n_shared_experts", "moe_num_shared_experts")
_Kind = TypeVar("_Kind", bound=MoE)


def gated_moe(
    args: Any, routing: Routing, kind: type[_Kind] = MoE, *, shared: int | None = None, **options: Any
) -> _Kind:
    """A router and gated experts, as many and as large as the config says in any of the usual names.

    Experts have `moe_intermediate_size` features, or `intermediate_size` where a family has no such field.

    Args:
        kind: with the parameters' names, see `MoE`; `options` are its further options.
        shared: size of the feed-forward that every token visits as well, 0 for none; None is as many times an
            expert's size as the config counts shared experts.
    """
    width, act = args.hidden_size, args.hidden_act
    count = next(getattr(args, name) for name in _COUNTS if hasattr(args, name))
    size = args.moe_intermediate_size if hasattr(args, "moe_intermediate_size") else args.intermediate_size
    if shared is None:
        shared = size * next((getattr(args, name) or 0 for name in _SHARED if hasattr(args, name)), 0)
    always = GatedMLP(width, shared, act, bias=getattr(args, "mlp_bias", False)) if shared else None
    return kind(width, count, routing, SwitchGLU(width, size, count, act=act), shared=always, **options)


def grouped_routing(args: Any, score: str = "sigmoid") -> Routing:
    """DeepSeek-V3's routing: the best groups by their two best experts. Source: https://arxiv.org/abs/2412.19437."""
    return Routing(
        args.num_experts_per_tok or 1,
        score,
        normalize=args.norm_topk_prob,
        scale=args.routed_scaling_factor,
        num_groups=args.n_group or 1,
        top_groups=args.topk_group or 1,
        group_score="top2",
        epsilon=1e-20,
    )
