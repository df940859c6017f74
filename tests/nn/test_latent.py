"""Latent attention: absorbed, expanded, packed and ragged agree; a DeepSeek-V2-shaped model takes long prompts."""

import time

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_lm.models import build_model
from mlx_lm.nn import LatentAttention, LatentOptions, Linear, RopeParameters, latent, make_rope
from mlx_lm.state import KVOptions


def layer(*, split=False, q_rank=32, seed=0, **changes):
    mx.random.seed(seed)
    sizes = {"hidden_size": 64, "num_heads": 4, "q_rank": q_rank, "kv_rank": 64, "nope_dim": 32, "rope_dim": 32}
    rope = make_rope(32, RopeParameters(), traditional=True)
    made = LatentAttention(
        LatentOptions(**(sizes | {"value_dim": 32, "rope": rope, "scale": 0.1, "split": split} | changes))
    )
    mx.eval(made.parameters())
    return made


def both_ways(module, x, monkeypatch, states=(None, None)):
    monkeypatch.setattr(latent, "_ABSORB_UP_TO", 10**6)
    absorbed = module(x, states[0])
    monkeypatch.setattr(latent, "_ABSORB_UP_TO", 0)
    return absorbed, module(x, states[1])


def far(a, b):
    return mx.abs(a - b).max().item()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("q_rank", [None, 32])
@pytest.mark.parametrize("packed", [None, (4, "affine"), (8, "affine"), (4, "mxfp4")])
def test_absorbed_equals_expanded(split, q_rank, packed, monkeypatch):
    module = layer(split=split, q_rank=q_rank)
    if packed is not None:
        bits, mode = packed
        nn.quantize(module, group_size=32, bits=bits, mode=mode)
        assert "scales" in (module.embed_q if split else module.kv_b_proj)
    x = mx.random.normal((2, 20, 64))
    absorbed, expanded = both_ways(module, x, monkeypatch)
    assert far(absorbed, expanded) < 1e-5
    monkeypatch.setattr(latent, "_EXPANDED_BYTES", 1)  # one head at a time
    assert far(module(x), expanded) < 1e-6


def test_packed_per_head_matrices_equal_their_dense_twins():
    module, dense = layer(split=True), layer(split=True)
    x = mx.random.normal((2, 4, 5, 32))
    packed = module.embed_q.to_quantized(group_size=32, bits=4)
    dense.embed_q.weight = mx.dequantize(packed.weight, packed.scales, packed.biases, group_size=32, bits=4)
    assert far(packed(x), dense.embed_q(x)) < 1e-5


@pytest.mark.parametrize("options", [KVOptions(), KVOptions(bits=8, group_size=32), KVOptions(max_size=12, keep=2)])
def test_any_cut_and_any_batch_give_the_solo_answer(options):
    module = layer()
    spec = module.state_spec()
    assert spec.kind == "latent" and spec.bytes_per_token(mx.bfloat16) == 2 * (64 + 32)
    x = mx.random.normal((2, 30, 64))
    whole = [module(x[i : i + 1], spec.create(options)) for i in range(2)]
    states = [spec.create(options) for _ in range(2)]
    module(x[:1, :20], states[0])
    module(x[1:, :3], states[1])
    batch = module(mx.concatenate([x[:1, 20:23], x[1:, 3:6]]), states)
    tolerance = 1e-5 if options.bits is None else 2e-2
    assert far(batch[:1], whole[0][:, 20:23]) < tolerance
    assert far(batch[1:], whole[1][:, 3:6]) < tolerance
    mark = states[0].snapshot()
    first = module(x[:1, 23:25], states[0])
    states[0].restore(mark)
    assert far(module(x[:1, 23:25], states[0]), first) == 0


def test_a_replaced_projection_is_called_and_not_read_around():
    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __call__(self, x):
            return 2 * self.inner(x)

    module, x = layer(), mx.random.normal((1, 5, 64))
    twin = Linear(64, module.kv_b_proj.weight.shape[0], bias=False)
    twin.weight = 2 * module.kv_b_proj.weight
    module.kv_b_proj = Doubled(module.kv_b_proj)
    out = module(x)
    module.kv_b_proj = twin
    assert far(out, module(x)) < 1e-5


def deepseek_config(**changes):
    scaling = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
    return {
        "model_type": "deepseek_v2",
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "max_position_embeddings": 163840,
        "rope_scaling": {**scaling, "mscale": 0.707, "mscale_all_dim": 0.707},
        **changes,
    }


def test_long_prompts_in_chunks_are_quick():
    model = build_model(deepseek_config())
    assert model.context_length == 163840
    mx.eval(model.parameters())
    ids = mx.random.randint(0, 64, (1, 4096))
    cache = model.make_cache()
    start = time.perf_counter()
    for at in range(0, 4096, 512):
        out = model(ids[:, at : at + 512], cache)
        mx.eval(out, [s.arrays() for s in cache])
    assert time.perf_counter() - start < 15
    assert cache[0].offset == 4096 and cache[0].nbytes < 1.2 * 4096 * (32 + 8) * 4
    assert mx.isfinite(model(ids[:, :1], cache)).all().item()


@pytest.mark.parametrize("mode", [("affine", 64, 4), ("affine", 32, 8), ("mxfp4", 32, 4), ("mxfp8", 32, 8)])
def test_packed_checkpoints_with_a_fused_projection_load_into_split_heads(mode):
    kind, group, bits = mode
    changes = {"model_type": "deepseek_v3", "kv_lora_rank": 64, "topk_group": 1, "n_group": 1}
    model = build_model(deepseek_config(**changes))
    weights = dict(tree_flatten(model.parameters()))
    split = model.weight_rules()[-1]
    name = "model.layers.0.self_attn.kv_b_proj"
    fused = mx.random.normal((2 * 32, 64))
    packed = dict(zip(("weight", "scales", "biases"), mx.quantize(fused, group, bits, mode=kind), strict=False))
    dense = mx.dequantize(*packed.values(), group_size=group, bits=bits, mode=kind).reshape(2, 32, 64)
    got = split({f"{name}.{k}": v for k, v in packed.items()})
    base = "model.layers.0.self_attn."
    assert far(got[base + "embed_q.weight"].swapaxes(1, 2), dense[:, :16]) == 0
    kept = [got[base + f"unembed_out.{k}"] for k in packed]
    assert far(mx.dequantize(*kept, group_size=group, bits=bits, mode=kind), dense[:, 16:]) == 0
    rest = {
        k: v for k, v in weights.items() if "layers.0.self_attn.embed_q" not in k and "layers.0.self_attn.une" not in k
    }
    config = deepseek_config(**changes, quantization={"group_size": group, "bits": bits, "mode": kind})
    loaded = build_model(config, rest | {f"{name}.{k}": v for k, v in packed.items()})
    assert "scales" in loaded.layers[0].self_attn.unembed_out and "scales" not in loaded.layers[0].self_attn.embed_q
