"""Experts and routing from the names that configs have for them; knows no family."""

from collections.abc import Callable
from typing import Any, TypeVar

from mlx import nn

from ..nn import GatedMLP, MoE, Routing, SwitchGLU
from ..nn.mlp import GatedActivation
from .config import EXPERT_COUNTS

__all__ = ["gated_moe", "grouped_routing", "usual_routing"]

_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_k")
_SCALES = ("routed_scaling_factor", "route_scale", "router_scaling_factor")
_SHARED = ("num_shared_experts", "n_shared_experts", "moe_num_shared_experts")
_SHARED_SIZES = ("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
_Kind = TypeVar("_Kind", bound=MoE)


def gated_moe(
    args: Any,
    routing: Routing,
    kind: type[_Kind] = MoE,
    *,
    shared: int | None = None,
    act: GatedActivation | None = None,
    inner: int | None = None,
    blocks: tuple[Callable[..., nn.Module], Callable[..., nn.Module]] = (GatedMLP, SwitchGLU),
    **options: Any,
) -> _Kind:
    """A router and gated experts, as many and as large as the config says in any of the usual names.

    Experts have `moe_intermediate_size` features, or `intermediate_size` where a family has no such field.

    Args:
        kind: with the parameters' names, see `MoE`; `options` are its further options.
        shared: size of the feed-forward that every token visits as well, 0 for none; None is
            `shared_expert_intermediate_size`, or as many times the size of a shared expert, or else of any, as the
            config counts shared experts.
        act: of all experts; None is `hidden_act`.
        inner: features that the chosen experts read; None is `hidden_size`.
        blocks: what makes the shared feed-forward and the experts, for those that are not gated.
    """
    width, activation = args.hidden_size, act or args.hidden_act
    count = _named(args, EXPERT_COUNTS)
    size = getattr(args, "moe_intermediate_size", None)
    size = args.intermediate_size if size is None else size
    if shared is None:
        each = (_named(args, _SHARED_SIZES) or size) * (_named(args, _SHARED) or 0)
        shared = getattr(args, "shared_expert_intermediate_size", each)
    always = blocks[0](width, shared, activation, bias=getattr(args, "mlp_bias", False)) if shared else None
    return kind(width, count, routing, blocks[1](inner or width, size, count, act=activation), shared=always, **options)


def usual_routing(args: Any, **options: Any) -> Routing:
    """How tokens choose, from the names that configs have for it; with groups, as `grouped_routing`.

    `options` of `Routing` are what a family has otherwise.
    """
    if hasattr(args, "topk_group"):
        return grouped_routing(args, **options)
    usual = {"top_k": _named(args, _CHOSEN), "normalize": getattr(args, "norm_topk_prob", True)}
    return Routing(**(usual | {"scale": _named(args, _SCALES, 1.0)} | options))


def grouped_routing(args: Any, score: str = "sigmoid", **options: Any) -> Routing:
    """DeepSeek-V3's routing: the best groups by their two best experts. Source: https://arxiv.org/abs/2412.19437."""
    usual = {
        "normalize": args.norm_topk_prob,
        "scale": args.routed_scaling_factor,
        "num_groups": args.n_group or 1,
        "top_groups": args.topk_group or 1,
        "group_score": "top2",
        "epsilon": 1e-20,
    }
    return Routing(args.num_experts_per_tok or 1, score, **(usual | options))


def _named(args: Any, names: tuple[str, ...], otherwise: Any = None) -> Any:
    """The first of the fields `names` that a config has."""
    return next((getattr(args, name) for name in names if hasattr(args, name)), otherwise)
