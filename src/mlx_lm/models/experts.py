"""Experts and routing from the names that configs have for them; knows no family."""

from dataclasses import replace
from typing import Any, TypeVar

from ..nn import GatedMLP, MoE, Routing, SwitchGLU
from ..nn.mlp import GatedActivation
from .config import EXPERT_COUNTS

__all__ = ["gated_moe", "grouped_routing", "usual_routing"]

_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_k")
_SCALES = ("routed_scaling_factor", "route_scale", "router_scaling_factor")
_SHARED = ("num_shared_experts", "n_shared_experts", "moe_num_shared_experts")
_Kind = TypeVar("_Kind", bound=MoE)


def gated_moe(
    args: Any,
    routing: Routing,
    kind: type[_Kind] = MoE,
    *,
    shared: int | None = None,
    act: GatedActivation | None = None,
    inner: int | None = None,
    **options: Any,
) -> _Kind:
    """A router and gated experts, as many and as large as the config says in any of the usual names.

    Experts have `moe_intermediate_size` features, or `intermediate_size` where a family has no such field.

    Args:
        kind: with the parameters' names, see `MoE`; `options` are its further options.
        shared: size of the feed-forward that every token visits as well, 0 for none; None is
            `shared_expert_intermediate_size`, or as many times an expert's size as the config counts shared experts.
        act: of all experts; None is `hidden_act`.
        inner: features that the chosen experts read; None is `hidden_size`.
    """
    width, activation = args.hidden_size, act or args.hidden_act
    count = next(getattr(args, name) for name in EXPERT_COUNTS if hasattr(args, name))
    size = args.moe_intermediate_size if hasattr(args, "moe_intermediate_size") else args.intermediate_size
    if shared is None:
        times = next((getattr(args, name) or 0 for name in _SHARED if hasattr(args, name)), 0)
        shared = getattr(args, "shared_expert_intermediate_size", size * times)
    always = GatedMLP(width, shared, activation, bias=getattr(args, "mlp_bias", False)) if shared else None
    return kind(width, count, routing, SwitchGLU(inner or width, size, count, act=activation), shared=always, **options)


def usual_routing(args: Any, **options: Any) -> Routing:
    """How tokens choose, from the names that configs have for it; with groups, as `grouped_routing`.

    `options` of `Routing` are what a family has otherwise.
    """
    if hasattr(args, "topk_group"):
        return replace(grouped_routing(args), **options)
    usual = {
        "top_k": next(getattr(args, name) for name in _CHOSEN if hasattr(args, name)),
        "normalize": getattr(args, "norm_topk_prob", True),
        "scale": next((getattr(args, name) for name in _SCALES if hasattr(args, name)), 1.0),
    }
    return Routing(**(usual | options))


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
