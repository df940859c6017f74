"""DeepSeek-V4.1 beyond its logits: folded ids, small floats on disk, states, and configs that are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from float64.cases import CASES, Case
from mlx.utils import tree_flatten

from mlx_lm.errors import ConfigError, WeightsError
from mlx_lm.models import build_model
from mlx_lm.models.formats import convert_checkpoint
from mlx_lm.models.load import load_model
from mlx_lm.state import KVOptions

CASE = CASES["deepseek_v41"]


def _tensors(case: Case = CASE) -> dict[str, mx.array]:
    return {name: mx.array(value) for name, value in case.run()[1].items()}


def _ids(length: int) -> mx.array:
    return mx.array(np.random.default_rng(1).integers(1, 32, (1, length)))


def _folder(folder: Path, config: dict[str, Any], tensors: dict[str, mx.array]) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    # Every third word is the one before it in capitals.
    words = [f"w{i}" if i % 3 else f"W{max(i - 1, 0)}" for i in range(32)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="W0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def test_ids_are_folded_by_the_tokenizer(tmp_path: Path) -> None:
    tensors = _tensors()
    del tensors["model.token_map"]
    wanted = np.cumsum([i % 3 != 0 or i == 0 for i in range(32)]) - 1
    config = CASE.config | {"engram_compressed_vocab_size": int(wanted.max()) + 1}
    model, _ = load_model(_folder(tmp_path / "raw", config, tensors))
    np.testing.assert_array_equal(model.model.token_map, wanted)
    again, _ = load_model(_folder(tmp_path / "saved", config, dict(tree_flatten(model.parameters()))))
    (tmp_path / "saved" / "tokenizer.json").unlink()  # the checkpoint has them now
    np.testing.assert_array_equal(again(_ids(9)), model(_ids(9)))


def test_ids_that_cannot_be_folded_are_said(tmp_path: Path) -> None:
    tensors = _tensors()
    del tensors["model.token_map"]
    with pytest.raises(ConfigError, match="engram_compressed_vocab_size"):
        load_model(_folder(tmp_path / "raw", CASE.config, tensors))
    with pytest.raises(WeightsError, match="token_map"):
        build_model(CASE.config, tensors)


def test_small_floats_of_the_published_checkpoint() -> None:
    """Eight-bit blocks of 32x32 (rows of the tables: 32), four-bit experts; scales that are powers of two."""
    config = CASE.config | {"hidden_size": 64, "moe_intermediate_size": 32, "q_lora_rank": 32, "o_lora_rank": 32}
    tensors = _tensors(replace(CASE, config=config))
    stored, dense = dict(tensors), dict(tensors)
    rng, kinds = np.random.default_rng(0), set()
    for name, value in tensors.items():
        base = name.removesuffix(".weight")
        kind = base.rsplit(".", 1)[-1]
        fp4 = ".experts." in name
        fp8 = kind in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3") and "compressor" not in name
        if not fp4 and not fp8 and not name.endswith("engram.embed.weight"):
            continue
        kinds.add(kind)
        rows, columns = value.shape
        high = rows if fp4 or kind == "embed" else -(-rows // 32)
        scales = mx.array(rng.integers(120, 124, (high, columns // 32)).astype(np.uint8))
        grid = mx.repeat(mx.repeat(2.0 ** (scales.astype(mx.float32) - 127), 32, axis=1), -(-rows // high), axis=0)[
            :rows
        ]
        if fp4:
            codes = mx.array(rng.integers(0, 256, (rows, columns // 2)).astype(np.uint8))
            stored[name] = codes.view(mx.int8)
            dense[name] = mx.dequantize(codes.view(mx.uint32), scales, group_size=32, bits=4, mode="mxfp4")
        else:
            stored[name] = mx.to_fp8(value * 8)
            dense[name] = mx.from_fp8(stored[name], mx.float32) * grid
        stored[f"{base}.scale"] = scales
    assert kinds == {"wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3", "embed"}
    settings = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]}
    packed = build_model(*convert_checkpoint(config | {"quantization_config": settings}, stored))
    assert packed.model.layers[1].engram.table.ngram_embedding.mode == "mxfp8"  # type: ignore[union-attr]
    wanted, found = build_model(config, dense)(_ids(12)), packed(_ids(12))
    assert (mx.abs(found - wanted).max(axis=-1) > 1e-3).sum().item() <= 1  # a value may round either way


@pytest.mark.parametrize("options", [KVOptions(), KVOptions(bits=8, group_size=32)])
def test_states_go_back(options: KVOptions) -> None:
    wide = replace(CASE, config=CASE.config | {"head_dim": 64, "index_head_dim": 64})
    model = build_model(wide.config, _tensors(wide))
    ids, cache = _ids(30), model.make_cache(options)
    model(ids[:, :11], cache)
    marks = [state.snapshot() for state in cache]
    first = model(ids[:, 11:16], cache)
    copies = [state.copy() for state in cache]
    for state, mark in zip(cache, marks, strict=True):
        state.restore(mark)
    np.testing.assert_array_equal(model(ids[:, 11:16], cache), first)
    assert mx.abs(model(ids[:, 16:20], cache) - model(ids[:, 16:20], copies)).max().item() < 1e-5
    assert [state.offset for state in cache] == [20] * len(cache)


def test_layers_declare_what_they_keep() -> None:
    specs = build_model(CASE.config).state_specs()
    assert not any(spec.trimmable for spec in specs)
    assert [spec.evictable for spec in specs] == [i not in (1, 3, 4) for i in range(7)]
    # 32 features of the window of each; for an entry 32 and for its key 32.
    grows = [spec.bytes(2000, mx.float32) - spec.bytes(1000, mx.float32) for spec in specs]
    assert grows == [0, 32 * 4 * 1000, 0, 0, 64 * 4 * 1000, 0, 0]


def test_long_prompts_in_pieces() -> None:
    """More entries than are read, blocks than are marked, and a window that has moved."""
    model = build_model(CASE.config, _tensors())
    ids = _ids(420)
    whole = model(ids)
    cache = model.make_cache()
    pieces = mx.concatenate([model(ids[:, a : a + 70], cache) for a in range(0, 420, 70)], axis=1)
    assert ((mx.abs(pieces - whole).max(axis=-1) > 1e-3).mean()).item() < 0.02  # near ties may fall either way


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compress_ratios", [0, 2]),
        ("compress_ratios", [0, 2, 2, 2, 1, 1, -1]),
        ("compress_ratios", [0, 2, 2, 4, 1, 1, 1]),
        ("kv_source_layer_ids", [1, 2, 4]),
        ("kv_source_layer_ids", [4]),
        ("index_source_layer_ids", [0, 1, 4]),
        ("candidate_source_layer_id", None),
        ("candidate_source_layer_id", 1),
        ("candidate_source_layer_id", 5),
        ("candidate_topk_blocks", 0),
        ("engram_layer_ids", [1, 7]),
        ("engram_layer_ids", [1, 1]),
        ("engram_num_embeddings", [100, 300]),
        ("engram_num_embeddings", [120]),
        ("engram_n_heads", 5000),
        ("engram_pad_token_id", 32),
        ("engram_compressed_vocab_size", None),
        ("head_dim", 24),
        ("index_head_dim", 16),
        ("num_experts_per_tok", 9),
        ("norm_topk_prob", False),
        ("topk_method", "greedy"),
        ("gate_temp", 0.0),
        ("num_hash_layers", 1),
        ("layer_types", ["sliding_attention"] * 7),
        ("attention_bias", True),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any) -> None:
    words = {"kv_source_layer_ids": "source_layer_ids|compress_ratios"}
    with pytest.raises(ConfigError, match=words.get(field, field)):
        build_model(CASE.config | {field: value})


def test_what_transformers_writes_is_read() -> None:
    """Kinds of layers and ropes for each, and a text config that is nested."""
    config = dict(CASE.config)
    scaling = config.pop("rope_scaling") | {"rope_theta": config.pop("compress_rope_theta"), "attention_factor": 1.0}
    rope = {"main": {"rope_type": "default", "rope_theta": config.pop("rope_theta")}, "compress": scaling}
    kinds = ["shared_compressed_attention" if i in (1, 4) else "sliding_attention" for i in range(7)]
    config |= {"rope_parameters": rope, "layer_types": kinds, "engram_pad_id": config.pop("engram_pad_token_id")}
    nested = {"model_type": "deepseek_v41", "text_config": config | {"model_type": "deepseek_v41_text"}}
    ids = mx.array(CASE.ids)[None]
    expected = build_model(CASE.config, _tensors())(ids)
    np.testing.assert_array_equal(build_model(nested, _tensors())(ids), expected)
