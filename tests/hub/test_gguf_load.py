"""GGUF models under Hugging Face names: transforms, quantization config, metadata rules."""

from pathlib import Path
from typing import Any

import gguf_files
import mlx.core as mx
import numpy as np
import pytest
from gguf_files import base_metadata, f32, floats, llama_tensors, q8_0

from mlx_lm.errors import ConfigError, MLXLMError, ModelFileError, UnsupportedError, UnsupportedModelError
from mlx_lm.hub import PACKAGED, gguf, gguf_blocks, gguf_load, gguf_names, load_gguf, packaged


def load(tmp_path: Path, metadata: dict[str, Any], tensors: list[gguf_files.Tensor]):
    return load_gguf(gguf_files.write(tmp_path / "m.gguf", metadata, tensors))


def dense(weights: dict[str, mx.array], path: str, bits: int = 8) -> np.ndarray:
    scales, biases = (weights[f"{path}.{name}"].astype(mx.float32) for name in ("scales", "biases"))
    return np.array(mx.dequantize(weights[f"{path}.weight"], scales, biases, 32, bits))


def q8_values(tensor: gguf_files.Tensor) -> np.ndarray:
    """What a Q8_0 tensor of gguf_files holds."""
    blocks = np.frombuffer(tensor[3], np.uint8).reshape(-1, 34)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return (blocks[:, 2:].view(np.int8).astype(np.float32) * scale).reshape(tensor[1])


def permuted(array: np.ndarray, heads: int) -> np.ndarray:
    """What the converter does to q and k: row i of the first half and row i of the second become neighbours."""
    rows = array.shape[0] // heads
    order = [head * rows + half * rows // 2 + i for head in range(heads) for i in range(rows // 2) for half in (0, 1)]
    return array[order]


def test_llama_config_names_and_quantization(tmp_path: Path):
    config, weights, quantization = load(tmp_path, base_metadata(), llama_tensors())
    expected = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    expected |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 3}
    expected |= {"rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": 2, "torch_dtype": "float16"}
    assert config | expected == config
    assert quantization == {"group_size": 32, "bits": 8, "mode": "affine"}
    assert weights["model.layers.0.self_attn.q_proj.weight"].shape == (64, 16)
    assert weights["model.layers.0.self_attn.q_proj.scales"].shape == (64, 2)
    assert weights["model.norm.weight"].dtype == mx.float32
    assert len(weights) == 3 * 8 + 3


def test_llama_rows_are_unpermuted_in_every_storage(tmp_path: Path):
    original = floats((64, 64), 9)
    stored = q8_0("blk.0.attn_q.weight", permuted(original, 4))
    bias = floats((32,), 10)
    tensors = [tensor for tensor in llama_tensors() if "attn_q" not in tensor[0]]
    tensors += [stored, f32("blk.0.attn_k.bias", permuted(bias, 2))]
    config, weights, _ = load(tmp_path, base_metadata(), tensors)
    order = np.argsort(permuted(np.arange(64), 4))
    np.testing.assert_array_equal(dense(weights, "model.layers.0.self_attn.q_proj"), q8_values(stored)[order])
    np.testing.assert_array_equal(np.array(weights["model.layers.0.self_attn.k_proj.bias"]), bias)
    assert config["attention_bias"] is True


def test_mixed_types_are_listed_by_path(tmp_path: Path):
    tensors = llama_tensors()
    tensors[-1] = f32("blk.0.ffn_down.weight", floats((64, 96)))
    q4 = np.random.default_rng(0).integers(0, 60, (96 * 2, 18), dtype=np.uint8).tobytes()
    tensors[-2] = ("blk.0.ffn_up.weight", (96, 64), "Q4_0", q4)
    _, weights, quantization = load(tmp_path, base_metadata(), tensors)
    assert quantization["model.layers.0.mlp.up_proj"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert quantization["model.layers.0.mlp.down_proj"] is False
    assert weights["model.layers.0.mlp.down_proj.weight"].shape == (64, 96)


def test_bfloat16_and_unquantized_files(tmp_path: Path):
    halves = [(name, shape, "BF16", bytes(2 * int(np.prod(shape)))) for name, shape, kind, _ in llama_tensors()]
    halves[0] = ("token_embd.weight", (3, 64), "BF16", np.full((3, 64), 0x3FC0, "<u2").tobytes())
    config, weights, quantization = load(tmp_path, base_metadata(), halves)
    assert quantization == {}
    assert config["torch_dtype"] == "bfloat16"
    assert weights["model.embed_tokens.weight"][0, 0].item() == 1.5


def test_gemma_norms_lose_their_one(tmp_path: Path):
    metadata = base_metadata("gemma3") | {"gemma3.attention.key_length": 16, "gemma3.attention.sliding_window": 8}
    tensors = [f32("token_embd.weight", floats((3, 64))), f32("output_norm.weight", np.full(64, 1.25, np.float32))]
    tensors += [f32("blk.0.attn_q_norm.weight", np.full(16, 0.5, np.float32))]
    config, weights, _ = load(tmp_path, metadata, tensors)
    assert weights["model.norm.weight"][0].item() == 0.25
    assert weights["model.layers.0.self_attn.q_norm.weight"][0].item() == -0.5
    assert (config["model_type"], config["layer_types"]) == ("gemma3_text", ["sliding_attention"])
    assert config["query_pre_attn_scalar"] == 16


def test_experts_stay_stacked(tmp_path: Path):
    metadata = base_metadata() | {"llama.expert_count": 2, "llama.expert_used_count": 1}
    stacked = q8_0("blk.0.ffn_gate_exps.weight", floats((2, 96, 64)))
    tensors = [f32("token_embd.weight", floats((3, 64))), stacked, f32("blk.0.ffn_gate_inp.weight", floats((2, 64)))]
    config, weights, quantization = load(tmp_path, metadata, tensors)
    path = "model.layers.0.block_sparse_moe.experts.gate_proj"
    assert (config["model_type"], config["num_local_experts"]) == ("mixtral", 2)
    assert weights[f"{path}.weight"].shape == (2, 96, 16)
    np.testing.assert_array_equal(dense(weights, path), q8_values(stacked))
    assert quantization["model.layers.0.block_sparse_moe.gate"] is False


def qwen3next_metadata() -> dict[str, Any]:
    keys = {"ssm.inner_size": 64, "ssm.time_step_rank": 4, "ssm.group_count": 2, "ssm.state_size": 16}
    keys |= {"ssm.conv_kernel": 4}
    keys |= {"expert_count": 2, "expert_used_count": 1, "expert_feed_forward_length": 32, "attention.key_length": 16}
    return base_metadata("qwen3next") | {f"qwen3next.{key}": value for key, value in keys.items()}


@pytest.mark.parametrize("gate_type", ["F32", "Q8_0"])
def test_delta_projections_are_joined_by_key_head(tmp_path: Path, gate_type: str):
    make = f32 if gate_type == "F32" else q8_0
    qkv, gate = floats((128, 64), 1), floats((64, 64), 2)
    tensors = [f32("token_embd.weight", floats((3, 64))), q8_0("blk.0.attn_qkv.weight", qkv)]
    tensors += [make("blk.0.attn_gate.weight", gate)]
    tensors += [f32("blk.0.ssm_a", -np.exp(floats((4,), 3))), f32("blk.0.ssm_conv1d.weight", floats((128, 4)))]
    config, weights, quantization = load(tmp_path, qwen3next_metadata(), tensors)
    path = "model.layers.0.linear_attn.in_proj_qkvz"
    got = np.array(weights[f"{path}.weight"]) if gate_type == "F32" else dense(weights, path)
    values = q8_values(tensors[1])
    z = gate if gate_type == "F32" else q8_values(tensors[2])
    q, k, v = values[:32].reshape(2, 16, 64), values[32:64].reshape(2, 16, 64), values[64:].reshape(2, 32, 64)
    expected = np.concatenate([q, k, v, z.reshape(2, 32, 64)], axis=1).reshape(192, 64)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(np.array(weights["model.layers.0.linear_attn.A_log"]), floats((4,), 3), rtol=1e-5)
    assert weights["model.layers.0.linear_attn.conv1d.weight"].shape == (128, 1, 4)
    assert config["linear_num_key_heads"] == 2
    assert quantization.get(path, True) is not (gate_type == "F32") or quantization == {}


def test_delta_projections_of_two_types_are_widened(tmp_path: Path):
    raw = np.random.default_rng(0).integers(0, 60, (64 * 2, 18), dtype=np.uint8)
    tensors = [f32("token_embd.weight", floats((3, 64))), q8_0("blk.0.attn_qkv.weight", floats((128, 64), 1))]
    tensors += [("blk.0.attn_gate.weight", (64, 64), "Q4_0", raw.tobytes())]
    _, weights, quantization = load(tmp_path, qwen3next_metadata(), tensors)
    got = dense(weights, "model.layers.0.linear_attn.in_proj_qkvz")
    z = gguf_blocks.to_float32(raw.reshape(-1), "Q4_0", 18).reshape(64, 64)
    np.testing.assert_array_equal(got[64:96], z[:32])
    assert quantization == {"group_size": 32, "bits": 8, "mode": "affine", "model.embed_tokens": False}


def test_mamba2(tmp_path: Path):
    keys = {"block_count": 1, "context_length": 1024, "embedding_length": 32, "feed_forward_length": 0}
    keys |= {"attention.head_count": 0, "ssm.inner_size": 64, "ssm.time_step_rank": 4, "ssm.state_size": 16}
    keys |= {"ssm.conv_kernel": 4, "ssm.group_count": 2, "attention.layer_norm_rms_epsilon": 1e-5}
    metadata = {"general.architecture": "mamba2"} | {f"mamba2.{key}": value for key, value in keys.items()}
    tensors = [f32("token_embd.weight", floats((3, 32))), f32("blk.0.ssm_norm.weight", floats((2, 32)))]
    tensors += [f32("blk.0.ssm_a", np.full((4, 1), -2.0, np.float32)), f32("blk.0.ssm_d", floats((4, 1)))]
    tensors += [f32("blk.0.ssm_dt.bias", floats((4,))), f32("blk.0.ssm_conv1d.bias", floats((128,)))]
    config, weights, _ = load(tmp_path, metadata, tensors)
    expected = {"model_type": "mamba2", "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 2}
    assert config | expected == config
    np.testing.assert_allclose(np.array(weights["backbone.layers.0.mixer.A_log"]), np.log([2.0] * 4), rtol=1e-6)
    assert weights["backbone.layers.0.mixer.norm.weight"].shape == (64,)
    assert weights["backbone.layers.0.mixer.D"].shape == (4,)
    assert {"backbone.embeddings.weight", "backbone.layers.0.mixer.dt_bias"} <= weights.keys()


def config_of(
    tmp_path: Path, metadata: dict[str, Any], tensors: list[gguf_files.Tensor] | None = None
) -> dict[str, Any]:
    tensors = tensors or [f32("token_embd.weight", floats((3, 64)))]
    return gguf_load.load_gguf_config(gguf_files.write(tmp_path / "c.gguf", metadata, tensors))


def test_deepseek2_latent_sizes_and_groups(tmp_path: Path):
    keys = {"rope.dimension_count": 8, "attention.key_length": 40, "attention.value_length": 32}
    keys |= {
        "attention.kv_lora_rank": 32,
        "attention.key_length_mla": 24,
        "attention.value_length_mla": 16,
        "attention.head_count_kv": 1,
    }
    keys |= {"expert_count": 256, "expert_used_count": 8, "expert_feed_forward_length": 32, "expert_gating_func": 2}
    keys |= {"leading_dense_block_count": 1, "expert_weights_scale": 2.5, "expert_weights_norm": True}
    keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": 40.0, "rope.scaling.original_context_length": 16}
    keys |= {"rope.scaling.yarn_log_multiplier": 0.1}
    metadata = base_metadata("deepseek2") | {f"deepseek2.{key}": value for key, value in keys.items()}
    config = config_of(tmp_path, metadata)
    expected = {"model_type": "deepseek_v3", "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    expected |= {"kv_lora_rank": 32, "q_lora_rank": None, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5}
    assert config | expected == config
    assert config["rope_scaling"]["mscale_all_dim"] == 1.0


def test_llama3_rope_table_becomes_its_rule(tmp_path: Path):
    factors = np.array([1.0] * 4 + [8.0] * 4, np.float32)
    theta, old, low, high = 500_000.0, 8192, 1.0, 4.0
    for index in range(8):
        wavelength = 2 * np.pi * theta ** (2 * index / 16)
        smooth = np.clip((old / wavelength - low) / (high - low), 0, 1)
        factors[index] = 1 / ((1 - smooth) / 8 + smooth)
    metadata = base_metadata() | {"llama.rope.freq_base": theta}
    table = [f32("token_embd.weight", floats((3, 64))), f32("rope_freqs.weight", factors)]
    config = config_of(tmp_path, metadata, table)
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["rope_scaling"]["factor"] == 8.0
    with pytest.raises(UnsupportedError, match="rope_freqs"):
        config_of(tmp_path, metadata, [table[0], f32("rope_freqs.weight", floats((8,)))])


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("llama.attention.clamp_kqv", 8.0, UnsupportedError),
        ("llama.attention.sliding_window", 8, UnsupportedError),
        ("llama.attention.causal", False, UnsupportedError),
        ("llama.attention.head_count", 0, MLXLMError),
        ("llama.attention.head_count_kv", 3, ConfigError),
        ("llama.block_count", "x", ConfigError),
        ("llama.rope.freq_base", -1.0, ConfigError),
        ("llama.rope.freq_base", float("nan"), ConfigError),
        ("llama.rope.scaling.type", "su", UnsupportedError),
        ("general.architecture", "wonder", UnsupportedModelError),
        ("general.architecture", 3, UnsupportedModelError),
    ],
)
def test_keys_are_honoured_or_refused_by_name(tmp_path: Path, key: str, value: Any, kind: type[MLXLMError]):
    with pytest.raises(kind):
        config_of(tmp_path, base_metadata() | {key: value})


def test_unknown_tensors_and_types_are_refused_by_name(tmp_path: Path):
    with pytest.raises(UnsupportedError, match=r"blk\.0\.mystery"):
        load(tmp_path, base_metadata(), [*llama_tensors(), f32("blk.0.mystery.weight", floats((4, 32)))])
    odd = ("output.weight", (3, 256), "IQ2_XS", bytes(3 * 74))
    with pytest.raises(UnsupportedError, match=r"output\.weight.*IQ2_XS"):
        load(tmp_path, base_metadata(), [*llama_tensors(), odd])
    with pytest.raises(ModelFileError, match="second"):
        load(tmp_path, base_metadata(), [*llama_tensors(), f32("blk.00.attn_norm.weight", floats((64,)))])


def test_every_architecture_has_rules_for_its_usual_tensors():
    for architecture in gguf_names.ARCHITECTURES:
        assert gguf_names.rule_for(architecture, "token_embd.weight").quantizable
        assert gguf_names.rule_for(architecture, "output_norm.weight").target
        for name in ("blk.0.attn_norm", "blk.0.attn_norm.scale", "blk.x.attn_norm.weight", "output", ""):
            with pytest.raises(UnsupportedError):
                gguf_names.rule_for(architecture, name)


@pytest.mark.parametrize(
    ("architecture", "name", "target"),
    [
        ("phi3", "blk.3.ffn_up.weight", "model.layers.3.mlp.gate_up_proj.weight"),
        ("phi3", "blk.3.attn_qkv.weight", "model.layers.3.self_attn.qkv_proj.weight"),
        ("olmo2", "blk.3.post_ffw_norm.weight", "model.layers.3.post_feedforward_layernorm.weight"),
        ("gemma2", "blk.3.ffn_norm.weight", "model.layers.3.pre_feedforward_layernorm.weight"),
        ("gpt-oss", "blk.3.attn_sinks.weight", "model.layers.3.self_attn.sinks"),
        ("gpt-oss", "blk.3.ffn_up_exps.bias", "model.layers.3.mlp.experts.up_proj.bias"),
        ("deepseek2", "blk.3.exp_probs_b.bias", "model.layers.3.mlp.gate.e_score_correction_bias"),
        ("deepseek2", "blk.3.attn_k_b.weight", "model.layers.3.self_attn.embed_q.weight"),
        ("deepseek2", "blk.3.ffn_down_shexp.weight", "model.layers.3.mlp.shared_experts.down_proj.weight"),
        ("lfm2", "blk.3.shortconv.conv.weight", "model.layers.3.conv.conv.weight"),
        ("lfm2", "blk.3.shortconv.in_proj.weight", "model.layers.3.conv.in_proj.weight"),
        ("lfm2", "token_embd_norm.weight", "model.embedding_norm.weight"),
        ("qwen3moe", "blk.3.ffn_gate_inp.weight", "model.layers.3.mlp.gate.weight"),
        ("qwen3next", "blk.3.ssm_ba.weight", "model.layers.3.linear_attn.in_proj_ba.weight"),
        ("qwen3next", "blk.3.ffn_gate_inp_shexp.weight", "model.layers.3.mlp.shared_expert_gate.weight"),
    ],
)
def test_names_of_each_family(architecture: str, name: str, target: str):
    assert gguf_names.rule_for(architecture, name).target == target


SIZES = {"smollm2": (272, 4), "gemma-3-270m": (236, 8), "qwen2.5-coder-1.5b": (339, 4)}


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2", "gemma-3-270m"])
def test_packaged_models_load(name: str):
    path = packaged.cached_path(name)
    if path is None:
        pytest.skip(f"{name} is not cached")
    file = gguf.read(path)
    config, weights, quantization = load_gguf(file)
    tensors, bits = SIZES[name]
    assert (len(file.tensors), quantization["bits"]) == (tensors, bits)
    assert all(bool(mx.isfinite(array).all()) for key, array in weights.items() if key.endswith("scales"))
    assert config["vocab_size"] == len(file.metadata["tokenizer.ggml.tokens"])
    assert PACKAGED[name].nbytes == path.stat().st_size
