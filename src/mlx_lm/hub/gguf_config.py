"""GGUF metadata -> a Hugging Face style config dictionary.

Contract: `build_config(metadata, shapes, rope_tables)` is pure Python. Every `<architecture>.*` key is used, known not
to change the computation, or refused by name: none is dropped. It knows nothing of weights beyond their names and
shapes. Values that GGUF does not carry but the published models fix (Gemma's query scale, DeepSeek's expert groups,
gpt-oss's clamp) are filled in where the family is read, with the reason.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mlx_lm.errors import ConfigError, ModelFileError, UnsupportedError, UnsupportedModelError

__all__ = ["build_config"]

Shapes = Mapping[str, tuple[int, ...]]
Tables = Mapping[str, Sequence[float]]

# Keys that describe the file, or that llama.cpp needs and the config implies.
_HARMLESS = frozenset(
    {
        "attention.layer_norm_epsilon",
        "embedding_length_out",
        "expert_shared_feed_forward_length",
        "nextn_predict_layers",
        "pooling_type",
        "rope.scaling.finetuned",
        "tensor_data_layout",
        "vocab_size",
    }
)
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_CONTEXT = 1.0, 4.0, 8192


class _Keys:
    """Typed reads of `<architecture>.*`, remembering which keys were read."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str):
        self.metadata = metadata
        self.architecture = architecture
        self.used: set[str] = set()

    def raw(self, key: str) -> Any:
        self.used.add(key)
        return self.metadata.get(f"{self.architecture}.{key}")

    def fail(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"GGUF key {self.architecture}.{key} {why}.")

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31) -> int:
        value = self.raw(key)
        if value is None:
            if default is None:
                raise self.fail(key, "is missing")
            return default
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"is {str(value)[:80]}, expected an integer from {low} to {high}")
        return value

    def integers(self, key: str, count: int, *, default: int | None = None) -> list[int]:
        """One value per layer; a scalar counts for all."""
        value = self.raw(key)
        value = default if value is None else value
        items: list[Any] = value if isinstance(value, list) else [value] * count
        if len(items) < count or any(type(item) is not int or not 0 <= item < 1 << 31 for item in items):
            raise self.fail(key, f"must hold {count} integers")
        return items[:count]

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw(key)
        if value is None:
            if default is None:
                raise self.fail(key, "is missing")
            return default
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.fail(key, f"is {str(value)[:80]}, expected a finite number")
        return float(f"{value:.7g}")  # float32 1e-05 reads back as 9.99999974e-06: give the decimal that was meant

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.fail(key, f"is {str(value)[:80]}, expected true or false")
        return value

    def refuse_leftovers(self) -> None:
        prefix = f"{self.architecture}."
        present = {key[len(prefix) :] for key in self.metadata if key.startswith(prefix)}
        left = sorted(present - self.used - _HARMLESS)
        if left:
            names = ", ".join(prefix + key for key in left)
            raise UnsupportedError(f"These GGUF keys change the computation and are not supported: {names}.")


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, Any]:
    def token(name: str) -> int | None:
        value = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return value if type(value) is int and 0 <= value < 1 << 31 else None

    ends = [value for name in ("eos", "eot", "eom") if (value := token(name)) is not None]
    ends = list(dict.fromkeys(ends))
    found = {
        "bos_token_id": token("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": token("padding"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _llama3_scaling(factors: Sequence[float], theta: float) -> dict[str, Any]:
    """Recognize Llama 3's rope table: GGUF stores the divisors, not the rule they came from."""
    factor, count = max(factors), len(factors)
    if not 0 < factor < math.inf:
        raise UnsupportedError("Tensor 'rope_freqs.weight' holds values that are no rope table.")
    expected: list[float] = []
    for index in range(count):
        wavelength = 2 * math.pi * theta ** (index / count)
        smooth = (_LLAMA3_CONTEXT / wavelength - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
        smooth = min(max(smooth, 0.0), 1.0)
        expected.append(1 / ((1 - smooth) / factor + smooth))
    if any(not math.isclose(a, b, rel_tol=1e-3) for a, b in zip(factors, expected, strict=True)):
        raise UnsupportedError("Tensor 'rope_freqs.weight' is not Llama 3's rope table; others are not supported.")
    return {
        "rope_type": "llama3",
        "factor": round(factor, 4),
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": _LLAMA3_CONTEXT,
    }


def _yarn_scaling(keys: _Keys, factor: float, original: int) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if keys.raw(f"rope.scaling.{theirs}") is not None:
            scaling[ours] = keys.number(f"rope.scaling.{theirs}")
    if keys.number("rope.scaling.yarn_ext_factor", 1.0) not in (1.0, -1.0):
        raise keys.fail("rope.scaling.yarn_ext_factor", "is supported only with the value 1")
    # ggml multiplies YaRN's own 0.1 ln(factor) + 1 by this; Hugging Face's field holds the product.
    extra = keys.number("rope.scaling.attn_factor", 1.0) * keys.number("rope.scaling.yarn_attn_factor", 1.0)
    if extra != 1.0:
        scaling["attention_factor"] = extra * (0.1 * math.log(factor) + 1)
    return scaling


def _rope_scaling(keys: _Keys, config: dict[str, Any], tables: Tables) -> dict[str, Any] | None:
    kind = keys.raw("rope.scaling.type")
    factor = keys.number("rope.scaling.factor", 1.0)
    original = keys.integer("rope.scaling.original_context_length", config["max_position_embeddings"])
    if "rope_freqs.weight" in tables:
        return _llama3_scaling(tables["rope_freqs.weight"], config["rope_theta"])
    if "rope_factors_long.weight" in tables and "rope_factors_short.weight" in tables:
        config["original_max_position_embeddings"] = original
        scaling: dict[str, Any] = {
            "rope_type": "longrope",
            "long_factor": list(tables["rope_factors_long.weight"]),
            "short_factor": list(tables["rope_factors_short.weight"]),
            "original_max_position_embeddings": original,
        }
        if keys.raw("rope.scaling.attn_factor") is not None:
            scaling["attention_factor"] = keys.number("rope.scaling.attn_factor")
        return scaling
    if kind in (None, "none") or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        if factor <= 0:
            raise keys.fail("rope.scaling.factor", "must be positive")
        return _yarn_scaling(keys, factor, original)
    raise UnsupportedError(f"Rope scaling {str(kind)[:40]!r} of this GGUF file is not supported.")


def _has(shapes: Shapes, suffix: str) -> bool:
    return any(name.startswith("blk.") and name.endswith(suffix) for name in shapes)


def _base(keys: _Keys, shapes: Shapes, tables: Tables, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields every transformer family shares."""
    if "token_embd.weight" not in shapes or len(shapes["token_embd.weight"]) != 2:
        raise ModelFileError("The GGUF file has no two-dimensional tensor 'token_embd.weight'.")
    if not keys.flag("attention.causal", True) or keys.flag("use_parallel_residual", False):
        raise UnsupportedError("Bidirectional attention and parallel residuals are not supported in GGUF files.")
    layers = keys.integer("block_count", high=10_000) - keys.integer("nextn_predict_layers", 0, low=0, high=64)
    heads = keys.integer("attention.head_count", low=0 if keys.architecture == "mamba2" else 1)
    config: dict[str, Any] = {
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": keys.integer("embedding_length"),
        "num_hidden_layers": layers,
        "intermediate_size": keys.integer("feed_forward_length", 0, low=0),
        "num_attention_heads": heads,
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": keys.number("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in shapes,
        "attention_bias": any(_has(shapes, f".attn_{name}.bias") for name in ("q", "k", "qkv")),
        **_special_tokens(metadata),
    }
    if layers < 1:
        raise keys.fail("nextn_predict_layers", "leaves no layer of block_count")
    if config["rope_theta"] <= 0:
        raise keys.fail("rope.freq_base", "must be positive")
    if heads:
        head_dim = keys.integer("attention.key_length", max(1, config["hidden_size"] // heads))
        config["head_dim"] = head_dim
        config["num_key_value_heads"] = max(keys.integers("attention.head_count_kv", layers, default=heads))
        if not config["num_key_value_heads"] or heads % config["num_key_value_heads"]:
            raise keys.fail("attention.head_count_kv", f"does not divide the {heads} heads")
        scaling = _rope_scaling(keys, config, tables)
        if scaling:
            config["rope_scaling"] = scaling
    return config


def _full_rope(keys: _Keys, config: dict[str, Any]) -> None:
    """Heads of equal key and value length; a rope over part of the head becomes partial_rotary_factor."""
    head_dim = config["head_dim"]
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.fail("attention.value_length", "differs from the key length, which this family does not support")
    rotated = keys.integer("rope.dimension_count", head_dim)
    if rotated != head_dim:
        config["partial_rotary_factor"] = rotated / head_dim


def _expert_fields(keys: _Keys, config: dict[str, Any], name: str) -> int:
    """Sets `name` and num_experts_per_tok; returns the number of experts (0: a dense model)."""
    count = keys.integer("expert_count", 0, low=0, high=1 << 16)
    used = keys.integer("expert_used_count", 0, low=0, high=1 << 16)
    if count:
        if not 0 < used <= count:
            raise keys.fail("expert_used_count", f"must be from 1 to {count}")
        config[name], config["num_experts_per_tok"] = count, used
    return count


def _llama(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    if config.pop("partial_rotary_factor", 1) != 1:
        raise keys.fail("rope.dimension_count", "differs from the head length, which this family does not support")
    config["model_type"] = "mixtral" if _expert_fields(keys, config, "num_local_experts") else "llama"
    config["mlp_bias"] = _has(shapes, ".ffn_up.bias")
    config["hidden_act"] = "silu"


def _qwen2(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    config.pop("attention_bias")  # not a key of this family: its queries, keys and values always have biases
    config.update(model_type="qwen2", hidden_act="silu", use_sliding_window=False)


def _qwen3(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    config.update(model_type="qwen3", hidden_act="silu", use_sliding_window=False)


def _qwen3moe(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _qwen2(keys, config, shapes)
    _expert_fields(keys, config, "num_experts")
    config.update(
        model_type="qwen3_moe",
        moe_intermediate_size=keys.integer("expert_feed_forward_length"),
        norm_topk_prob=keys.flag("expert_weights_norm", True),  # true in every published checkpoint
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )
    if keys.number("expert_weights_scale", 1.0) not in (0.0, 1.0):
        raise keys.fail("expert_weights_scale", "is not supported for this family")


def _layer_types(count: int, full_every: int, other: str) -> list[str]:
    return ["full_attention" if (index + 1) % full_every == 0 else other for index in range(count)]


def _gemma(keys: _Keys, config: dict[str, Any], *, wide_layers: int) -> None:
    """`wide_layers`: the depth of the one size (27B) that scales queries by hidden_size / heads."""
    _full_rope(keys, config)
    wide = config["num_hidden_layers"] == wide_layers
    config.update(
        hidden_activation="gelu_pytorch_tanh",
        hidden_act="gelu_pytorch_tanh",
        query_pre_attn_scalar=config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"],
        sliding_window=keys.integer("attention.sliding_window", 4096),
    )
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        config[name] = keys.number(name, 0.0) or None


def _gemma2(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _gemma(keys, config, wide_layers=46)
    config["model_type"] = "gemma2"
    config["layer_types"] = _layer_types(config["num_hidden_layers"], 2, "sliding_attention")


def _gemma3(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _gemma(keys, config, wide_layers=62)
    pattern = keys.raw("attention.sliding_window_pattern")
    count = config["num_hidden_layers"]
    if isinstance(pattern, list):
        types = ["sliding_attention" if slides else "full_attention" for slides in pattern[:count]]
        if len(types) != count:
            raise keys.fail("attention.sliding_window_pattern", f"must hold {count} values")
    else:
        types = _layer_types(count, keys.integer("attention.sliding_window_pattern", 6), "sliding_attention")
    config.update(
        model_type="gemma3_text",
        layer_types=types,
        rope_local_base_freq=keys.number("rope.freq_base_swa", 10_000.0),
    )
    if not isinstance(pattern, list):
        config["sliding_window_pattern"] = keys.integer("attention.sliding_window_pattern", 6)


def _phi3(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    window = keys.integer("attention.sliding_window", 0, low=0)
    config.update(model_type="phi3", hidden_act="silu", sliding_window=window or None)


def _olmo2(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    config.update(model_type="olmo2", hidden_act="silu")


def _gpt_oss(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    _expert_fields(keys, config, "num_local_experts")
    config.update(
        model_type="gpt_oss",
        intermediate_size=keys.integer("expert_feed_forward_length"),
        sliding_window=keys.integer("attention.sliding_window", 128),
        layer_types=_layer_types(config["num_hidden_layers"], 2, "sliding_attention"),
        swiglu_limit=7.0,  # fixed by the published model; GGUF does not carry it
        hidden_act="silu",
    )
    if "rope_scaling" in config:
        config["rope_scaling"] = {"beta_fast": 32.0, "beta_slow": 1.0, **config["rope_scaling"], "truncate": False}


def _deepseek_groups(keys: _Keys, experts: int, sigmoid: bool) -> dict[str, Any]:
    """Group-limited routing. Older files lack the two keys; the expert count then tells the published model."""
    published = {256: (8, 4), 160: (8, 3)}.get(experts, (1, 1))
    groups = keys.integer("expert_group_count", published[0])
    used = keys.integer("expert_group_used_count", published[1])
    method = "noaux_tc" if sigmoid else "group_limited_greedy" if groups > 1 else "greedy"
    return {"n_group": groups, "topk_group": used, "topk_method": method}


def _deepseek2(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    rope_dim = keys.integer("rope.dimension_count")
    key_length = keys.integer("attention.key_length_mla", config["head_dim"])
    value_length = keys.integer("attention.value_length", key_length)
    sigmoid = keys.integer("expert_gating_func", 1, low=0, high=2) == 2
    if key_length <= rope_dim:
        raise keys.fail("attention.key_length_mla", f"must be larger than the {rope_dim} rotated dimensions")
    config.update(
        model_type="deepseek_v3" if sigmoid else "deepseek_v2",
        num_key_value_heads=config["num_attention_heads"],
        head_dim=rope_dim,
        qk_rope_head_dim=rope_dim,
        qk_nope_head_dim=key_length - rope_dim,
        v_head_dim=keys.integer("attention.value_length_mla", value_length),
        kv_lora_rank=keys.integer("attention.kv_lora_rank"),
        q_lora_rank=keys.integer("attention.q_lora_rank", 0, low=0) or None,
        first_k_dense_replace=keys.integer("leading_dense_block_count", 0, low=0),
        n_shared_experts=keys.integer("expert_shared_count", 0, low=0) or None,
        moe_intermediate_size=keys.integer("expert_feed_forward_length"),
        routed_scaling_factor=keys.number("expert_weights_scale", 1.0) or 1.0,
        norm_topk_prob=keys.flag("expert_weights_norm", False),
        scoring_func="sigmoid" if sigmoid else "softmax",
        moe_layer_freq=1,
        hidden_act="silu",
    )
    experts = _expert_fields(keys, config, "n_routed_experts")
    config.update(_deepseek_groups(keys, experts, sigmoid))
    log_multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0)
    if "rope_scaling" in config and log_multiplier:
        # GGUF holds 0.1 * mscale_all_dim; the published models set mscale to the same number.
        mscale = float(f"{log_multiplier * 10:.6g}")
        config["rope_scaling"] = config["rope_scaling"] | {"mscale": mscale, "mscale_all_dim": mscale}


def _mamba2(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    inner, heads = keys.integer("ssm.inner_size"), keys.integer("ssm.time_step_rank")
    if inner % heads or inner % config["hidden_size"]:
        raise keys.fail("ssm.inner_size", "must be a multiple of the heads and of the hidden size")
    for name in ("num_attention_heads", "intermediate_size", "rope_theta", "attention_bias"):
        config.pop(name)
    config["layer_norm_epsilon"] = config.pop("rms_norm_eps")
    keys.raw("attention.head_count_kv")
    config.update(
        model_type="mamba2",
        num_heads=heads,
        head_dim=inner // heads,
        expand=inner // config["hidden_size"],
        state_size=keys.integer("ssm.state_size"),
        conv_kernel=keys.integer("ssm.conv_kernel"),
        n_groups=keys.integer("ssm.group_count"),
        use_conv_bias=_has(shapes, ".ssm_conv1d.bias"),
        use_bias=_has(shapes, ".ssm_in.bias"),
        time_step_limit=[0.0, math.inf],
        hidden_act="silu",
    )


def _lfm2(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    per_layer = keys.integers("attention.head_count_kv", config["num_hidden_layers"])
    config["norm_eps"] = config.pop("rms_norm_eps")
    config.update(
        model_type="lfm2",
        layer_types=["full_attention" if count else "conv" for count in per_layer],
        conv_L_cache=keys.integer("shortconv.l_cache"),
        conv_bias=_has(shapes, ".shortconv.conv.bias"),
        block_ff_dim=config["intermediate_size"],
        block_dim=config["hidden_size"],
        block_auto_adjust_ff_dim=False,  # feed_forward_length is the adjusted width
        block_multiple_of=256,
        block_ffn_dim_multiplier=1.0,
    )


def _qwen3next(keys: _Keys, config: dict[str, Any], shapes: Shapes) -> None:
    _full_rope(keys, config)
    _expert_fields(keys, config, "num_experts")
    value_heads, inner = keys.integer("ssm.time_step_rank"), keys.integer("ssm.inner_size")
    interval = keys.integer("full_attention_interval", 4)
    shared = next((shape for name, shape in shapes.items() if name.endswith(".ffn_up_shexp.weight")), (0, 0))
    if inner % value_heads or value_heads % keys.integer("ssm.group_count"):
        raise keys.fail("ssm.time_step_rank", "must divide the inner size and be a multiple of the groups")
    config.update(
        model_type="qwen3_next",
        linear_num_value_heads=value_heads,
        linear_num_key_heads=keys.integer("ssm.group_count"),
        linear_key_head_dim=keys.integer("ssm.state_size"),
        linear_value_head_dim=inner // value_heads,
        linear_conv_kernel_dim=keys.integer("ssm.conv_kernel"),
        full_attention_interval=interval,
        layer_types=_layer_types(config["num_hidden_layers"], interval, "linear_attention"),
        moe_intermediate_size=keys.integer("expert_feed_forward_length"),
        shared_expert_intermediate_size=shared[0],
        norm_topk_prob=keys.flag("expert_weights_norm", True),
        decoder_sparse_step=1,
        mlp_only_layers=[],
        hidden_act="silu",
    )
    config.setdefault("partial_rotary_factor", 1.0)


_FAMILIES: MappingProxyType[str, Callable[[_Keys, dict[str, Any], Shapes], None]] = MappingProxyType(
    {
        "llama": _llama,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "qwen3moe": _qwen3moe,
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "phi3": _phi3,
        "olmo2": _olmo2,
        "gpt-oss": _gpt_oss,
        "deepseek2": _deepseek2,
        "mamba2": _mamba2,
        "lfm2": _lfm2,
        "qwen3next": _qwen3next,
    }
)


def build_config(metadata: Mapping[str, Any], shapes: Shapes, rope_tables: Tables) -> dict[str, Any]:
    """The config that the published Hugging Face checkpoint of this model would carry.

    `shapes` maps GGUF tensor names to row-major shapes; `rope_tables` holds the values of the rope_* tensors.
    Raises UnsupportedModelError for an architecture that is not known, ConfigError for missing or impossible values,
    UnsupportedError for keys and tensors that would change the computation in a way that is not supported.
    """
    architecture = metadata.get("general.architecture")
    family = _FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None or not isinstance(architecture, str):
        known = ", ".join(_FAMILIES)
        raise UnsupportedModelError(f"GGUF architecture {str(architecture)[:60]!r} is not supported. Known: {known}.")
    keys = _Keys(metadata, architecture)
    config = _base(keys, shapes, rope_tables, metadata)
    family(keys, config, shapes)
    for key in ("expert_count", "expert_used_count"):  # written as 0 into dense models
        if keys.raw(key) not in (None, 0) and "num_experts_per_tok" not in config:
            raise keys.fail(key, "is set for a family without experts")
    keys.refuse_leftovers()
    return config
