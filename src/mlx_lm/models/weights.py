"""Weight-name rules: how a checkpoint's tensors become a model's parameters.

Rules are idempotent: they read raw Hugging Face names and layouts, and leave alone what is already in the layout
that mlx-lm checkpoints have, which is also the layout of the module tree. So a model is always written in mlx-lm's
layout. Loading, GGUF import, quantization overrides and adapters all go through the same rules.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from ..errors import WeightsError

__all__ = [
    "COMMON_RULES", "LAST_RULES", "TEXT_TOWER_RULES", "Drop", "DropLayers", "Published", "Rename", "Rule", "Split",
    "Stack", "Transform", "apply_rules", "conv_layout", "expert_rules", "no_correction", "rename_parts", "rename_path",
    "split_pair",
]  # fmt: skip

Weights = dict[str, mx.array]


class Rule(Protocol):
    """Takes a checkpoint's tensors and gives them back changed."""

    def __call__(self, weights: Weights) -> Weights: ...


@dataclass(frozen=True)
class Rename:
    """Replaces the first match of `pattern` (a regular expression) in every name."""

    pattern: str
    replacement: str

    def __call__(self, weights: Weights) -> Weights:
        return {self.name(k): v for k, v in weights.items()}

    def name(self, name: str) -> str:
        return re.sub(self.pattern, self.replacement, name, count=1)


@dataclass(frozen=True)
class Drop:
    """Forgets tensors whose name matches `pattern`: buffers, towers of other modalities, unused heads."""

    pattern: str

    def __call__(self, weights: Weights) -> Weights:
        found = re.compile(self.pattern).search
        return {k: v for k, v in weights.items() if not found(k)}


@dataclass(frozen=True)
class DropLayers:
    """Forgets layers, or other `parts`, from number `count` on: next-token prediction heads that no layer list has."""

    count: int
    parts: str = "layers"

    def __call__(self, weights: Weights) -> Weights:
        found = re.compile(rf"(?:^|\.){self.parts}\.(\d+)\.").search
        return {k: v for k, v in weights.items() if not ((m := found(k)) and int(m[1]) >= self.count)}


@dataclass(frozen=True)
class Stack:
    """Stacks one tensor per expert into one tensor (E, ...), or, with `join`, joins them along their first axis.

    `pattern` has a group named `expert`; `replacement` is the stacked name.
    """

    pattern: str
    replacement: str
    join: bool = False

    def __call__(self, weights: Weights) -> Weights:
        found = re.compile(self.pattern).fullmatch
        result: Weights = {}
        stacks: dict[str, dict[int, mx.array]] = {}
        for name, value in weights.items():
            if match := found(name):
                stacks.setdefault(match.expand(self.replacement), {})[int(match["expert"])] = value
            else:
                result[name] = value
        for name, experts in stacks.items():
            if sorted(experts) != list(range(len(experts))):
                raise WeightsError(f"{name}: experts are missing; found {sorted(experts)}.")
            result[name] = (mx.concatenate if self.join else mx.stack)([experts[i] for i in range(len(experts))])
        return result


@dataclass(frozen=True)
class Split:
    """Cuts a fused tensor along `axis` into parts of `sizes`, equal ones without.

    `interleaved` takes every n-th row instead of blocks.
    """

    pattern: str
    replacements: tuple[str, ...]
    axis: int = 0
    interleaved: bool = False
    sizes: tuple[int, ...] = ()

    def __call__(self, weights: Weights) -> Weights:
        found = re.compile(self.pattern).fullmatch
        result: Weights = {}
        cuts = [sum(self.sizes[:i]) for i in range(1, len(self.sizes))]
        for name, value in weights.items():
            match = found(name)
            if match is None:
                result[name] = value
                continue
            n = len(self.replacements)
            if self.interleaved:
                parts = [mx.take(value, mx.arange(i, value.shape[self.axis], n), axis=self.axis) for i in range(n)]
            else:
                parts = mx.split(value, cuts or n, axis=self.axis)
            for replacement, part in zip(self.replacements, parts, strict=True):
                result[match.expand(replacement)] = part
        return result


@dataclass(frozen=True)
class Transform:
    """Changes the values of matching tensors; `function` must leave a value that is already right as it is."""

    pattern: str
    function: Callable[[mx.array], mx.array]

    def __call__(self, weights: Weights) -> Weights:
        found = re.compile(self.pattern).search
        return {k: self.function(v) if found(k) else v for k, v in weights.items()}


def split_pair(pattern: str, target: str, axis: int = 0, *, interleaved: bool = False) -> Split:
    """Cuts what matches `pattern` into `target.gate_proj.weight` and `target.up_proj.weight`."""
    names = tuple(f"{target}.{name}_proj.weight" for name in ("gate", "up"))
    return Split(pattern, names, axis, interleaved)


def conv_layout(weight: mx.array) -> mx.array:
    """A depthwise kernel (C, 1, K) as torch keeps it -> (C, K, 1) as MLX does."""
    return weight.moveaxis(2, 1) if weight.ndim == 3 and weight.shape[1] == 1 else weight


# Depthwise kernels, under whatever name; after a family's own rules, some of which look at the layout.
LAST_RULES: tuple[Rule, ...] = (Transform(r"conv\w*\.weight$", conv_layout),)


# The text tower of a multimodal checkpoint, in either of the ways that transformers nests it.
TEXT_TOWER_RULES: tuple[Rule, ...] = (
    Rename(r"^(?:model\.)?language_model\.(model\.|lm_head\.)", r"\1"),
    Rename(r"^(?:model\.)?language_model\.", "model."),
)

COMMON_RULES: tuple[Rule, ...] = (
    Drop(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"),
    Drop(r"\.(masked_bias|attention\.bias|attn\.bias)$"),
)


@dataclass(frozen=True)
class Published:
    """Runs `rules` on published checkpoints only, which show in the layout of their convolutions."""

    rules: tuple[Rule, ...]

    def __call__(self, weights: Weights) -> Weights:
        kernels = [v for k, v in weights.items() if k.endswith("conv1d.weight")]
        return apply_rules(self.rules, weights) if kernels and kernels[0].shape[-1] != 1 else weights


def apply_rules(rules: Sequence[Rule], weights: Weights) -> Weights:
    """The tensors after all rules, in order."""
    for rule in rules:
        weights = rule(weights)
    return weights


def rename_parts(names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Renames parts of names, which stand between dots, one after the other."""
    return tuple(Rename(rf"\.{re.escape(old)}\.", f".{new}.") for old, new in names.items())


def rename_path(rules: Sequence[Rule], path: str) -> str:
    """A module path (as quantization configs and adapters name it) after the renaming rules."""
    for rule in rules:
        if isinstance(rule, Rename):
            path = rule.name(path + ".weight").removesuffix(".weight")
    return path


def expert_rules(
    at: str = "mlp", names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"), target: str = "switch_mlp"
) -> tuple[Rule, ...]:
    """Gated experts in any layout -> stacked, under `{at}.{target}.{gate_proj,up_proj,down_proj}`.

    Layouts: one module per expert, `{at}.experts.N.{names}`, and what transformers holds in memory,
    `{at}.experts.gate_up_proj` (E, 2I, H) with the gate's rows first and `{at}.experts.down_proj` (E, H, I).
    """
    ours = ("gate_proj", "up_proj", "down_proj")
    stacked = rf"\g<at>.{target}"
    return (
        *(
            Stack(rf"(?P<at>.*\.{at})\.experts\.(?P<expert>\d+)\.{name}\.(?P<kind>\w+)", rf"{stacked}.{own}.\g<kind>")
            for name, own in zip(names, ours, strict=True)
        ),
        Split(
            rf"(?P<at>.*\.{at})\.experts\.gate_up_proj", (f"{stacked}.gate_proj.weight", f"{stacked}.up_proj.weight"), 1
        ),
        Rename(rf"(?P<at>\.{at})\.experts\.down_proj$", f"{stacked}.down_proj.weight"),
    )


def no_correction(weights: Weights) -> Weights:
    """Gives routers at `mlp.gate` that were saved without their selection bias (E,) one of zeros."""
    result = dict(weights)
    for name in [k for k in weights if k.endswith(".mlp.gate.weight")]:
        result.setdefault(name.removesuffix("weight") + "e_score_correction_bias", mx.zeros(weights[name].shape[:1]))
    return result
