"""Checkpoints of other quantizers, loaded from folders, against float models that hold what they mean."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import format_encoders as enc
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from references import _E4M3, load_reference

from mlx_lm.errors import ConfigError, ModelFileError, WeightsError
from mlx_lm.models import build_model
from mlx_lm.models.formats import fp8
from mlx_lm.models.formats.layout import float8_table, pack, unpack
from mlx_lm.models.load import check_config, load_config, load_model
from mlx_lm.quant import convert, quantize_model

CT = "compressed-tensors"


def ct(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": CT, "format": form, "ignore": ["lm_head"], "config_groups": {"group_0": group}}


def gptq(bits: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": False, **more}


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
ROW = partial(enc.float8, grid="row", suffix="weight_scale")

# name -> (quantization_config, encoder, layout of the layers: (mode, bits), or None where they become dense)
CASES: dict[str, tuple[dict[str, Any], Any, tuple[str, int] | None]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, enc.awq, ("affine", 4)),
    "gptq-4": (gptq(4), enc.gptq, ("affine", 4)),
    "gptq-2": (gptq(2), partial(enc.gptq, bits=2), ("affine", 2)),
    "gptq-3": (gptq(3), partial(enc.gptq, bits=3), ("affine", 3)),
    "gptq-8-no-idx": (gptq(8), partial(enc.gptq, bits=8, idx=False), ("affine", 8)),
    "gptq-sym": (gptq(4, sym=True), partial(enc.gptq, sym=True), ("affine", 4)),
    "gptq-v2": (gptq(4, checkpoint_format="gptq_v2"), partial(enc.gptq, v2=True), ("affine", 4)),
    "auto-round": (
        {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq"},
        enc.gptq,
        ("affine", 4),
    ),
    "ct-int4": (ct("pack-quantized", num_bits=4, type="int", symmetric=True), enc.ct_pack, ("affine", 4)),
    "ct-int4-asym": (
        ct("pack-quantized", num_bits=4, type="int", symmetric=False),
        partial(enc.ct_pack, symmetric=False),
        ("affine", 4),
    ),
    "ct-int8-channel": (
        ct("pack-quantized", num_bits=8, type="int", symmetric=True),
        partial(enc.ct_pack, bits=8, group=0),
        ("affine", 8),
    ),
    "ct-w8a8": (ct("int-quantized", num_bits=8, type="int", symmetric=True), enc.ct_int8, ("affine", 8)),
    "ct-naive-tensor": (
        ct("naive-quantized", num_bits=8, type="int", symmetric=True),
        partial(enc.ct_int8, channel=False),
        ("affine", 8),
    ),
    "ct-fp8-channel": (ct("float-quantized", num_bits=8, type="float"), ROW, None),
    "ct-fp8-tensor": (
        ct("float-quantized", num_bits=8, type="float"),
        partial(enc.float8, grid="tensor", suffix="weight_scale"),
        None,
    ),
    "ct-fp8-block": (
        ct("float-quantized", num_bits=8, type="float", block_structure="128x128"),
        partial(enc.float8, suffix="weight_scale"),
        None,
    ),
    "ct-mxfp4": (ct("mxfp4-pack-quantized", num_bits=4, type="float"), enc.mxfp4, ("mxfp4", 4)),
    "ct-nvfp4": (ct("nvfp4-pack-quantized", num_bits=4, type="float"), enc.nvfp4, None),
    "ct-nvfp4-one": (
        ct("nvfp4-pack-quantized", num_bits=4, type="float"),
        partial(enc.nvfp4, factor=1.0),
        ("nvfp4", 4),
    ),
    "fp8-block": (FP8, enc.float8, None),
    "fp8-block-ue8m0": ({**FP8, "scale_fmt": "ue8m0"}, partial(enc.float8, power=True), ("mxfp8", 8)),
    "fp8-scalar": ({**FP8, "weight_block_size": None}, partial(enc.float8, grid="scalar"), None),
    "mxfp8-32x32": ({**FP8, "weight_block_size": [32, 32]}, enc.mxfp8, ("mxfp8", 8)),
    "mxfp8-1x32": (
        {"quant_method": "mxfp8", "weight_block_size": [1, 32]},
        partial(enc.mxfp8, height=1),
        ("mxfp8", 8),
    ),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, ROW, None),
    "modelopt-nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        partial(enc.nvfp4, modelopt=True),
        None,
    ),
    "modelopt-fp8": (
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        partial(enc.float8, grid="scalar", suffix="weight_scale"),
        None,
    ),
    "modelopt-fp8-row": (
        {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"},
        partial(enc.float8, grid="row1", suffix="weight_scale"),
        None,
    ),
    "bitnet": ({"quant_method": "bitnet"}, enc.bitnet, ("affine", 2)),
    "bitnet-auto": (
        {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
        partial(enc.bitnet, multiply=True),
        ("affine", 2),
    ),
    "bnb-nf4": (BNB, partial(enc.bnb4, nested=False), None),
    "bnb-nf4-nested": (BNB, enc.bnb4, None),
    "bnb-fp4": ({**BNB, "bnb_4bit_quant_type": "fp4"}, partial(enc.bnb4, kind="fp4"), None),
    "bnb-int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, enc.bnb8, ("affine", 8)),
}
MOE_CASES = (
    "awq",
    "gptq-3",
    "ct-int4-asym",
    "ct-w8a8",
    "ct-mxfp4",
    "fp8-block",
    "mxfp8-1x32",
    "bitnet",
    "bnb-nf4-nested",
)


REFERENCES = {
    "llama": "llama/base",
    "moe": "qwen3_moe/bias_wide",
    "mixtral": "mixtral/wide",
    "deepseek": "deepseek_v3/wide_bias",
}


def dense_parts(kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Config and float32 weights: a llama of unequal widths, or a mixture of experts under published names."""
    reference = load_reference(REFERENCES[kind])
    config = reference.config("hub")
    config = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype")} | {"torch_dtype": "float32"}
    if kind != "llama":
        return config, {k: np.array(v.astype(mx.float32)) for k, v in reference.weights.items()}
    config |= {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"head_dim": 32, "num_hidden_layers": 2}
    rng = np.random.default_rng(0)
    shapes = {k: v.shape for k, v in tree_flatten(build_model(config).parameters())}
    return config, {k: (rng.standard_normal(s) * 0.1 + (len(s) == 1)).astype(np.float32) for k, s in shapes.items()}


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight") or (".experts." in name and name.endswith(".weight"))


def make(
    folder: Path, settings: dict[str, Any] | None, encode: Any, *, kind: str = "llama", extra: enc.Tensors | None = None
) -> tuple[Path, dict[str, Any], dict[str, mx.array]]:
    """Writes a quantized checkpoint; returns (folder, float config, the float weights that it means)."""
    config, weights = dense_parts(kind)
    rng = np.random.default_rng(1)
    stored: enc.Tensors = dict(extra or {})
    for name, value in weights.items():
        if not is_linear(name):
            stored[name] = ("F32", value)
            continue
        tensors, weights[name] = encode(rng, *value.shape)
        stored |= {f"{name.removesuffix('weight')}{suffix}": tensor for suffix, tensor in tensors.items()}
    folder.mkdir(exist_ok=True)
    enc.write_safetensors(folder / "model.safetensors", stored)
    written = config if settings is None else config | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(written))
    return folder, config, {k: mx.array(v) for k, v in weights.items()}


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([[1, 5, 9, 2, 30, 7]])).astype(mx.float32))


def check(folder: Path, config: dict[str, Any], weights: dict[str, mx.array]) -> tuple[Any, dict[str, Any]]:
    """Loads the folder; its logits are those of the float model."""
    model, loaded = load_model(folder)
    expected = logits(build_model(config, weights))
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.isfinite(expected).all() and float(expected.std()) > 1e-3
    # The native kernels sum codes and biases apart, which costs a digit by cancellation.
    np.testing.assert_allclose(logits(model) / scale, expected / scale, atol=5e-5, rtol=0)
    assert "quantization_config" not in loaded
    return model, loaded


def layouts(model: Any) -> set[tuple[str, int] | None]:
    found = set()
    for path, module in model.named_modules():
        if path.endswith(("_proj", ".w1")) and "weight" in module:
            found.add((module.mode, module.bits) if "scales" in module else None)
    return found


@pytest.mark.parametrize("name", CASES)
def test_llama_equals_the_float_model(name: str, tmp_path: Path) -> None:
    settings, encode, layout = CASES[name]
    model, config = check(*make(tmp_path / "model", settings, encode))
    assert layouts(model) == {layout}
    assert ("quantization" in config) == (layout is not None)


@pytest.mark.parametrize("name", MOE_CASES)
@pytest.mark.parametrize("kind", ["moe", "mixtral"])
def test_experts_equal_the_float_model(name: str, kind: str, tmp_path: Path) -> None:
    settings, encode, layout = CASES[name]
    model, _ = check(*make(tmp_path / "model", settings, encode, kind=kind))
    assert layouts(model) == {layout}


@pytest.mark.parametrize("name", ["awq", "gptq-4", "ct-int4-asym"])
def test_larger_groups_of_the_file(name: str, tmp_path: Path) -> None:
    settings, encode, _ = CASES[name]
    model, config = check(*make(tmp_path / "model", {**settings, "group_size": 64}, partial(encode, group=64)))
    assert layouts(model) == {("affine", 4)} and config["quantization"]["group_size"] == 64


def test_eight_bit_floats_are_decoded_exactly() -> None:
    codes = np.array([c for c in range(256) if c & 127 != 127], np.uint8)
    weight = fp8.Float8("w", mx.array(codes[None]), mx.array([1.0]))
    np.testing.assert_array_equal(np.array(fp8.decode(weight, mx.float32))[0], _E4M3[codes])
    np.testing.assert_array_equal(np.array(float8_table("e4m3"))[codes], _E4M3[codes])
    e5m2 = np.array(float8_table("e5m2"))  # the upper byte of a half
    np.testing.assert_array_equal(e5m2, (np.arange(256) << 8).astype(np.uint16).view(np.float16).astype(np.float32))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    codes = mx.array(np.random.default_rng(0).integers(0, 2**bits, (3, 64)).astype(np.uint8))
    words = pack(codes, bits)
    one = mx.ones((3, 2))
    np.testing.assert_array_equal(mx.dequantize(words, one, one * 0, 32, bits), codes)
    np.testing.assert_array_equal(unpack(words, bits), codes)


@pytest.mark.parametrize("power", [False, True])
def test_stacked_experts_with_scales_beside_them(power: bool, tmp_path: Path) -> None:
    """As transformers 5 saves eight-bit experts: gate_up_proj (E, 2I, H) with gate_up_proj_scale_inv."""
    encode = partial(enc.float8, power=power)
    folder, config, weights = make(tmp_path / "model", FP8, encode, kind="moe")
    stored = {k: v for k, v in mx.load(str(folder / "model.safetensors")).items() if ".experts." not in k}  # type: ignore[union-attr]
    rng, layers = np.random.default_rng(2), config["num_hidden_layers"]
    written = {k: ("U8" if v.dtype == mx.uint8 else "F32", np.array(v)) for k, v in stored.items()}
    for layer in range(layers):
        at = f"model.layers.{layer}.mlp.experts."
        if not any(k.startswith(at) for k in weights):
            continue
        for k in [k for k in weights if k.startswith(at)]:
            del weights[k]
        for name, n in (("gate_up_proj", 64), ("down_proj", 32)):
            made = [encode(rng, n, 32) for _ in range(config["num_experts"])]
            written[at + name] = ("U8", np.stack([t["weight"][1] for t, _ in made]))
            written[at + name + "_scale_inv"] = ("F32", np.stack([t["weight_scale_inv"][1] for t, _ in made]))
            weights[at + name] = mx.array(np.stack([w for _, w in made]))
    enc.write_safetensors(folder / "model.safetensors", written)
    check(folder, config, weights)


def test_latent_attention_reads_packed_keys(tmp_path: Path) -> None:
    """DeepSeek-V3's kv_b_proj is cut in heads by the family's rules, whatever its layout."""
    encode = partial(enc.mxfp8, height=32)
    model, _ = check(*make(tmp_path / "model", {**FP8, "weight_block_size": [32, 32]}, encode, kind="deepseek"))
    assert ("mxfp8", 8) in layouts(model)


def test_layers_of_different_groups(tmp_path: Path) -> None:
    """Two config groups (4 bits by class, 8 by pattern), an ignored layer and one of a plain weight."""

    def encode(rng: np.random.Generator, n: int, k: int) -> enc.Encoded:
        if (n, k) == (320, 128):  # up and gate
            return enc.ct_pack(rng, n, k, bits=8, symmetric=False)
        if (n, k) == (128, 320):  # down
            w = rng.standard_normal((n, k)).astype(np.float32) * np.float32(0.1)
            return {"weight": ("F32", w)}, w
        return enc.ct_pack(rng, n, k)

    settings = ct("pack-quantized", num_bits=4, type="int", symmetric=True)
    eight = {"num_bits": 8, "type": "int", "symmetric": False}
    settings["config_groups"]["group_1"] = {"targets": ["re:.*mlp[.](up|gate)_proj"], "weights": eight}
    settings["ignore"].append("re:.*down_proj")
    model, config = check(*make(tmp_path / "model", settings, encode))
    assert layouts(model) == {("affine", 4), ("affine", 8), None}
    entries = config["quantization"]
    assert entries["bits"] == 4 and entries["model.layers.1.mlp.up_proj"]["bits"] == 8


def test_symmetric_weights_keep_half_scales(tmp_path: Path) -> None:
    model, _ = check(*make(tmp_path / "a", *CASES["gptq-sym"][:2]))
    assert model.layers[0].mlp.up_proj.scales.dtype == mx.float16
    model, _ = check(*make(tmp_path / "b", *CASES["gptq-4"][:2]))
    assert model.layers[0].mlp.up_proj.scales.dtype == mx.float32


@pytest.mark.parametrize("encode", [enc.gptq, enc.ct_pack])
def test_a_real_activation_order_becomes_dense(encode: Any, tmp_path: Path) -> None:
    settings = gptq(4, desc_act=True) if encode is enc.gptq else CASES["ct-int4"][0]
    model, config = check(*make(tmp_path / "model", settings, partial(encode, order=True)))
    assert layouts(model) == {None} and "quantization" not in config


def test_an_activation_order_in_whole_blocks_stays_packed(tmp_path: Path) -> None:
    def encode(rng: np.random.Generator, n: int, k: int) -> enc.Encoded:
        tensors, w = enc.gptq(rng, n, k, v2=True)
        last = k // 32 - 1
        order = last - np.arange(k) // 32  # groups of 32 in reverse
        tensors["g_idx"] = ("I32", order)
        tensors["scales"] = ("F16", tensors["scales"][1][::-1])
        tensors["qzeros"] = ("I32", tensors["qzeros"][1][::-1])
        return tensors, w

    model, _ = check(*make(tmp_path / "model", gptq(4, checkpoint_format="gptq_v2"), encode))
    assert layouts(model) == {("affine", 4)}


def test_zero_biases_that_the_model_lacks_are_dropped(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.bias"
    settings, encode, _ = CASES["gptq-4"]
    check(*make(tmp_path / "a", settings, encode, extra={name: ("F32", np.zeros(320))}))
    folder, *_ = make(tmp_path / "b", settings, encode, extra={name: ("F32", np.ones(320))})
    with pytest.raises(WeightsError, match=r"up_proj\.bias"):
        load_model(folder)


def test_bitnet_online_rounds_float_weights(tmp_path: Path) -> None:
    def encode(rng: np.random.Generator, n: int, k: int) -> enc.Encoded:
        w = (rng.standard_normal((n, k)) * 0.1).astype(np.float32)
        mean = np.abs(w).mean()
        return {"weight": ("F32", w)}, (np.clip(np.round(w / mean), -1, 1) * mean).astype(np.float32)

    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    model, _ = check(*make(tmp_path / "model", settings, encode))
    assert layouts(model) == {("affine", 2)}


def test_modelopt_settings_in_their_own_file(tmp_path: Path) -> None:
    folder, config, weights = make(tmp_path / "model", None, CASES["modelopt-nvfp4"][1])
    own = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
    (folder / "hf_quant_config.json").write_text(json.dumps(own))
    check(folder, config, weights)
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="hf_quant_config"):
        load_config(folder)


@pytest.mark.parametrize(
    ("file", "name", "own"),
    [
        ("quantize_config.json", "gptq-4", {"bits": 4, "group_size": 32, "desc_act": False}),
        ("quant_config.json", "awq", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    ],
)
def test_settings_files_of_older_quantizers(file: str, name: str, own: dict[str, Any], tmp_path: Path) -> None:
    folder, config, weights = make(tmp_path / "model", None, CASES[name][1])
    (folder / file).write_text(json.dumps(own))
    check(folder, config, weights)


def test_settings_nested_in_the_text_config() -> None:
    config = load_reference("qwen2_vl/base").config("v5")
    config["text_config"]["quantization_config"] = {"quant_method": "hqq"}
    with pytest.raises(ConfigError, match="hqq"):
        check_config(config)


@pytest.mark.parametrize("method", ["quanto", "hqq", "eetq", "aqlm", "torchao", "new", None, 3, ["fp8"]])
def test_unknown_methods_are_refused_by_name_before_weights_are_read(method: Any) -> None:
    config, _ = dense_parts("llama")
    with pytest.raises(ConfigError, match=re.escape(repr(method)) + r".*mlx_lm\.convert"):
        check_config(config | {"quantization_config": {"quant_method": method, "x": 1}})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("awq", {"version": "gemv"}),
        ("awq", {"bits": 3}),
        ("gptq-8-no-idx", {"bits": 5}),
        ("gptq-4", {"checkpoint_format": "marlin"}),
        ("auto-round", {"packing_format": "auto_round:llm_compressor"}),
        ("ct-int4", {"format": "marlin-24"}),
        ("ct-int4", {"sparsity_config": {"format": "sparse-24-bitmask"}}),
        ("ct-int4", {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 5}}}}),
        ("ct-int4", {"config_groups": 3}),
        ("fp8-block", {"weight_block_size": [128, 0]}),
        ("fp8-block", {"weight_block_size": "wide"}),
        ("fp8-block", {"fmt": "e3m4"}),
        ("modelopt-fp8", {"quant_algo": "W4A8_AWQ"}),
        ("bitnet", {"linear_class": "other"}),
        ("bitnet", {"use_rms_norm": True}),
    ],
)
def test_settings_that_are_not_supported(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    settings, encode, _ = CASES[name]
    folder, *_ = make(tmp_path / "model", {**settings, **change}, encode)
    with pytest.raises(ConfigError):
        load_model(folder)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_needed_and_checked(name: str, tmp_path: Path) -> None:
    """Leaves out, cuts or retypes each tensor of one layer: a typed error, never a model."""
    settings, encode, _ = CASES[name]
    optional = {"g_idx", "weight_shape", "weight_format", "qzeros"}
    tensors, _ = encode(np.random.default_rng(0), 320, 128)
    for kind in tensors:
        for change in ("drop", "cut") if kind not in optional else ("cut",):

            def broken(rng: np.random.Generator, n: int, k: int, kind: str = kind, change: str = change) -> enc.Encoded:
                made, w = encode(rng, n, k)
                dtype, value = made.pop(kind)
                if change == "cut" and value.ndim:
                    made[kind] = (dtype, value[:-1])
                return made, w

            folder, *_ = make(tmp_path / f"{kind}-{change}", settings, broken)
            if change == "cut" and tensors[kind][1].ndim == 0:
                continue
            with pytest.raises((ConfigError, WeightsError, ModelFileError)):
                load_model(folder)


def test_what_is_not_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings, encode, _ = CASES["ct-w8a8"]
    extra = {
        "model.layers.0.self_attn.k_scale": ("F32", np.ones(1)),
        "model.layers.0.mlp.up_proj.input_scale": ("F32", np.ones(1)),
    }
    with caplog.at_level(logging.INFO, "mlx_lm.models.formats"):
        check(*make(tmp_path / "model", settings, encode, extra=extra))
    assert "input_scale, k_scale" in caplog.text and "stay in float" in caplog.text


@pytest.mark.parametrize("name", ["gptq-4", "fp8-block", "ct-mxfp4", "mxfp8-1x32"])
@pytest.mark.parametrize("how", ["plain", "-q", "-d"])
def test_convert(name: str, how: str, tmp_path: Path) -> None:
    settings, encode, layout = CASES[name]
    folder, config, weights = make(tmp_path / "model", settings, encode)
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    options = {"plain": {}, "-q": {"quantize": True, "q_bits": 8, "q_group_size": 32}, "-d": {"dequantize": True}}
    convert(folder, tmp_path / "new", **options[how])  # type: ignore[arg-type]
    model, _ = load_model(tmp_path / "new")
    assert layouts(model) == {{"plain": layout, "-q": ("affine", 8), "-d": None}[how]}
    expected = build_model(config, weights)
    if how == "-q":
        expected, _ = quantize_model(expected, config, 32, 8)
    expected = logits(expected)
    np.testing.assert_allclose(logits(model), expected, atol=1e-3 * np.abs(expected).max(), rtol=0)
