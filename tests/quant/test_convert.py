"""Converting: layouts, recipes, atomic output, and what is refused."""

import json

import mlx.core as mx
import pytest
from references import load_reference

from mlx_lm.errors import MLXLMError, ModelFileError, RequestError
from mlx_lm.models import build_model
from mlx_lm.models.load import load_model
from mlx_lm.quant import bits_per_weight, convert, dequantize_model, mixed_recipe, quantize_model


@pytest.fixture
def source(tmp_path):
    return load_reference("llama/wide_tied").save_checkpoint(tmp_path / "source")


@pytest.fixture
def moe_source(tmp_path):
    return load_reference("qwen3_moe/base").save_checkpoint(tmp_path / "source")


def logits(folder):
    model, _ = load_model(folder)
    return model(mx.array([[1, 2, 3, 4, 5]]))


def test_dense_copy_is_exact(source, tmp_path):
    convert(source, tmp_path / "out", dtype="float32")
    assert mx.array_equal(logits(source), logits(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_parameters"] > 0 and set(index["weight_map"].values()) == {"model.safetensors"}
    assert "library_name: mlx" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "mode,bits", [("affine", 2), ("affine", 4), ("affine", 8), ("mxfp4", 4), ("mxfp8", 8), ("nvfp4", 4)]
)
def test_quantized_models_load_and_equal_their_dequantized_twin(source, tmp_path, mode, bits):
    group = {"affine": 32, "mxfp4": 32, "mxfp8": 32, "nvfp4": 16}[mode]
    out = tmp_path / "q"
    convert(source, out, quantize=True, q_bits=bits, q_group_size=group, q_mode=mode, dtype="float32")
    config = json.loads((out / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    assert config["quantization"]["bits"] == bits and config["quantization"]["mode"] == mode
    convert(out, tmp_path / "dense", dequantize=True, dtype="float32")
    assert mx.allclose(logits(out), logits(tmp_path / "dense"), atol=2e-3)
    assert "quantization" not in json.loads((tmp_path / "dense" / "config.json").read_text())


def test_recipes_give_more_bits_where_errors_hurt():
    reference = load_reference("llama/wide_tied")
    model = build_model(reference.config("v5"), reference.weights)
    model, config = quantize_model(model, {}, 32, None, "affine", mixed_recipe("mixed_2_6", model, 32))
    entries = config["quantization"]
    bits = {path: entry["bits"] for path, entry in entries.items() if isinstance(entry, dict)}
    assert set(bits.values()) == {2, 6}
    assert all(b == 2 for path, b in bits.items() if "q_proj" in path or "gate_proj" in path)
    assert any(b == 6 for path, b in bits.items() if "down_proj" in path)


def test_layer_choices_survive_the_file(source, tmp_path):
    def choose(path, module):
        if "o_proj" in path:
            return False
        return {"group_size": 32, "bits": 8} if "v_proj" in path else True

    convert(source, tmp_path / "q", quantize=True, q_bits=4, q_group_size=32, quant_predicate=choose)
    model, config = load_model(tmp_path / "q")
    layer = model.layers[0].self_attn
    assert layer.q_proj.bits == 4 and layer.v_proj.bits == 8 and not hasattr(layer.o_proj, "bits")
    assert config["quantization"]["model.layers.0.self_attn.o_proj"] is False


def test_experts_are_quantized(moe_source, tmp_path):
    convert(moe_source, tmp_path / "q", quantize=True, q_bits=4, q_group_size=32, dtype="float32")
    convert(tmp_path / "q", tmp_path / "dense", dequantize=True, dtype="float32")
    assert mx.allclose(logits(tmp_path / "q"), logits(tmp_path / "dense"), atol=2e-3)
    model, _ = load_model(tmp_path / "q")
    assert bits_per_weight(model) < 12
    dequantize_model(model)


@pytest.mark.parametrize(
    "options",
    [
        {"quantize": True, "dequantize": True},
        {"q_bits": 4},
        {"dequantize": True},
        {"quantize": True, "q_bits": 7},
        {"quantize": True, "q_mode": "int4"},
        {"quantize": True, "q_mode": "mxfp4", "q_bits": 8},
        {"quantize": True, "q_mode": "mxfp4", "quant_predicate": "mixed_2_6"},
        {"quantize": True, "quant_predicate": "mixed_9_9"},
        {"dtype": "int8"},
    ],
)
def test_contradictions_are_refused_and_leave_nothing(source, tmp_path, options):
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(RequestError):
        convert(source, tmp_path / "out", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_existing_folder_is_never_touched(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ModelFileError, match="exists"):
        convert(source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_failed_write_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_unknown_models_are_refused(tmp_path):
    with pytest.raises(MLXLMError):
        convert(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
