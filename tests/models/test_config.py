"""Configs are untrusted: any value gives a typed `ModelArgs` or a ConfigError that names the field."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))
from float64.cases import CASES
from references import all_references, load_reference

from mlx_lm.errors import ConfigError
from mlx_lm.models import build_model, get_classes
from mlx_lm.models.config import BaseModelArgs, flatten_config
from mlx_lm.models.registry import MODEL_REMAPPING, families

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 50,
}


def _known(name: str) -> bool:
    model_type = load_reference(name).config_v5["model_type"]
    return MODEL_REMAPPING.get(model_type, model_type) in families()


KNOWN = [name for name in all_references() if _known(name)]
BASES = [name for name in KNOWN if name.endswith("/base")]
# Of every family that transformers does not implement, one config.
OTHERS = list({name.split("/")[0]: name for name in reversed(CASES)}.values())


def _args(config: dict[str, Any]) -> Any:
    return get_classes(config)[1].from_dict(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "32"),
        ("hidden_size", 32.5),
        ("hidden_size", True),
        ("hidden_size", 0),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 0),
        ("num_key_value_heads", 3),
        ("vocab_size", 0),
        ("intermediate_size", [48]),
        ("rms_norm_eps", math.nan),
        ("rms_norm_eps", math.inf),
        ("rms_norm_eps", "1e-5"),
        ("rope_theta", 0),
        ("rope_theta", -1.0),
        ("rope_theta", math.nan),
        ("hidden_act", "gelu_of_the_future"),
        ("layer_types", "full_attention"),
        ("layer_types", ["full_attention"]),
        ("layer_types", ["full_attention", "chunked_attention"]),
        ("tie_word_embeddings", 1),
        ("head_dim", 0),
        ("head_dim", -8),
        ("max_position_embeddings", 0),
        ("rope_scaling", {"rope_type": "linear"}),
        ("rope_scaling", {"rope_type": "linear", "factor": "4"}),
        ("rope_scaling", {"rope_type": "linear", "factor": math.nan}),
        ("rope_scaling", {"rope_type": "nonsense"}),
        ("rope_scaling", {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(LLAMA | {field: value})
    named = str(caught.value)
    assert field in named or "rope" in named or "rope" in field


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        _args({k: v for k, v in LLAMA.items() if k != field})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_qkv", 8.0),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("residual_multiplier", 0.2),
        ("logits_scaling", 8.0),
        ("embedding_multiplier", 12.0),
        ("partial_rotary_factor", 0.5),
        ("num_local_experts", 8),
        ("use_qk_norm", True),
        ("alibi", True),
        ("q_lora_rank", 64),
    ],
)
def test_a_key_that_changes_the_computation_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        _args(LLAMA | {key: value})


def test_neutral_values_and_bookkeeping_are_read_over() -> None:
    _args(LLAMA | {"clip_qkv": None, "partial_rotary_factor": 1.0, "use_cache": True, "something_new": [1, 2]})


@pytest.mark.parametrize("name", KNOWN)
def test_both_spellings_read_the_same_layers(name: str) -> None:
    reference = load_reference(name)
    one, other = (build_model(reference.config(spelling)) for spelling in ("v5", "hub"))
    assert one.state_specs() == other.state_specs()


def test_nested_text_configs_are_lifted() -> None:
    flat = flatten_config({"model_type": "gemma3", "vocab_size": 1, "text_config": {"vocab_size": 5, "x": 2}})
    assert flat == {"model_type": "gemma3", "vocab_size": 5, "x": 2}


class Plain(BaseModelArgs):
    width: int
    kinds: list[str] = dataclasses.field(default_factory=list)


class Wider(Plain):
    width: int = 8
    depth: int


@dataclasses.dataclass
class Decorated(BaseModelArgs):
    kinds: list[str] = dataclasses.field(default_factory=list)
    depth: int = 2


def test_args_are_dataclasses_without_a_decorator() -> None:
    assert [spec.name for spec in dataclasses.fields(Wider)] == ["model_type", "width", "kinds", "depth"]
    args = Wider.from_dict({"depth": 3})
    assert args == Wider(width=8, depth=3) == pickle.loads(pickle.dumps(args)) == copy.deepcopy(args)
    assert dataclasses.replace(args, width=9) == Wider(width=9, depth=3)
    assert args.kinds == [] and args.kinds is not Wider(depth=3).kinds
    with pytest.raises(ConfigError, match="width"):
        Plain.from_dict({})


def test_a_field_comes_from_the_first_base_that_declares_it() -> None:
    config = {"model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4, "num_key_value_heads": 1}
    args = get_classes(config)[1].from_dict(config)
    assert (args.head_dim, args.sliding_window, args.tie_word_embeddings) == (256, 4096, True)


def test_the_decorator_does_no_harm() -> None:
    assert Decorated.from_dict({"depth": 3}) == Decorated(depth=3, kinds=[])
    assert Decorated(kinds=["x"]).depth == 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-4, 40)
    | st.sampled_from([math.nan, math.inf, -1.5, 0.5, 3.0, 1e30])
    | st.sampled_from(["", "silu", "yarn", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor", "x"]), inner),
    max_leaves=4,
)


@pytest.mark.parametrize("name", [*BASES, *OTHERS])
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_hostile_configs_give_args_or_a_config_error(name: str, data: st.DataObject) -> None:
    if name in CASES:
        config = copy.deepcopy(CASES[name].config)
    else:
        config = load_reference(name).config(data.draw(st.sampled_from(["v5", "hub"])))
    place = config
    if isinstance(config.get("text_config"), dict):
        place = config["text_config"]
    keys = sorted(set(place) - {"model_type"})
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3)):
        place[key] = data.draw(JSON)
    try:
        build_model(config)
    except ConfigError as error:
        assert str(error)
