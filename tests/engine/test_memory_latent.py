"""What 100,000 tokens of DeepSeek-V2-Lite keep: 27 layers, each a latent of 512 values and a rotated key of 64.

The shape is that of the model's own config.json; its weights are never computed.
"""

import mlx.core as mx
import pytest

from mlx_lm.engine import kv_options
from mlx_lm.engine.model_states import new_states, predict
from mlx_lm.models import build_model

TOKENS, LAYERS, LATENT, ROTATED = 100_000, 27, 512, 64
GIGABYTES = {None: 3.110, 8: 1.652, 4: 0.875}
LITE = {
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_shared_experts": 2,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
    "kv_lora_rank": LATENT,
    "q_lora_rank": None,
    "qk_rope_head_dim": ROTATED,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "torch_dtype": "bfloat16",
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
    },
}


def formula(bits: int | None, group: int = 64) -> float:
    """Bytes: bfloat16 values, or packed ones with a scale and a bias in bfloat16 for each group."""
    each = 2 if bits is None else bits / 8 + 2 * 2 / group
    return TOKENS * LAYERS * (LATENT + ROTATED) * each


@pytest.fixture(scope="module")
def lite():
    before = mx.get_active_memory()
    model = build_model(LITE)
    model.kv_dtype = "bfloat16"
    assert mx.get_active_memory() - before < 1 << 20, "the weights have been computed"
    return model


@pytest.mark.parametrize(("bits", "gigabytes"), GIGABYTES.items())
def test_a_hundred_thousand_tokens_of_deepseek_v2_lite(lite, bits, gigabytes):
    predicted = predict(lite, TOKENS, kv_options(bits, 64))
    assert predicted == pytest.approx(formula(bits), rel=1e-6)
    assert predicted == pytest.approx(gigabytes * 1e9, rel=0.01)


@pytest.mark.parametrize("bits", GIGABYTES)
def test_a_layer_of_it_holds_what_is_predicted(lite, bits):
    held = 4096 - 64  # with the room that a state leaves: whole blocks
    states = new_states(lite, kv_options(bits, 64))
    latent, rotated = (mx.zeros((1, 1, held, size), mx.bfloat16) for size in (LATENT, ROTATED))
    states[0].update(latent, rotated)
    assert len(states) == LAYERS
    assert LAYERS * states[0].nbytes * TOKENS / 4096 == pytest.approx(formula(bits), rel=0.01)
