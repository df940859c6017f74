"""Tiny models in folders, as a user has them: random weights, a trained tokenizer, a ChatML template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "The quick brown fox jumps over the lazy dog while the small model answers every question of the user.",
    "A conversation has messages; a message has a role and content: system, user or assistant.",
    "Numbers 0 1 2 3 4 5 6 7 8 9 and words, lines and tabs stay what they are.",
]
COMMON = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "model_type": "llama"},
    "window": {**COMMON, "model_type": "mistral", "sliding_window": 16},
    "hybrid": {
        **COMMON,
        "model_type": "lfm2",
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "conv_L_cache": 3,
        "conv_bias": False,
        "block_multiple_of": 32,
        "block_ff_dim": 64,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
    },
    # The shape of DeepSeek-V2-Lite: a latent cache, experts, positions stretched by YaRN.
    "latent": {
        **COMMON,
        "model_type": "deepseek_v2",
        "num_key_value_heads": 2,
        "max_position_embeddings": 163_840,
        "rope_theta": 10_000.0,
        "rope_scaling": {
            "type": "yarn",
            "factor": 40,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
        "kv_lora_rank": 64,
        "q_lora_rank": None,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 64,
        "v_head_dim": 32,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
    },
    "short": {**COMMON, "model_type": "llama", "max_position_embeddings": 48},
}


def write_tokenizer(folder: Path, *, template: bool) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if template:
        config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_model(folder: Path, kind: str, *, template: bool = True, seed: int = 7) -> Path:
    from mlx_lm.models.build import build_model

    folder.mkdir(parents=True)
    mx.random.seed(seed)
    model = build_model(CONFIGS[kind])
    weights = {name: value.astype(mx.float32) for name, value in tree_flatten(model.parameters())}
    write_tokenizer(folder, template=template)
    # Only printable tokens can be the likeliest: answers are readable, and run until something else stops them.
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    good = {
        i for token, i in vocabulary.items() if token.replace("\u0120", "").isascii() and token.isprintable() and i > 1
    }
    mask = mx.array([[float(i in good)] for i in range(320)])
    weights["lm_head.weight"] = weights["lm_head.weight"] * mask
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind]))
    return folder


def model_maker(parent: Path) -> Callable[..., str]:
    """`make(kind="llama", template=True, seed=7)` -> the folder of a tiny model below `parent`, made once for each."""

    def make(kind: str = "llama", *, template: bool = True, seed: int = 7) -> str:
        folder = parent / f"{kind}-{template}-{seed}"
        return str(folder if folder.is_dir() else write_model(folder, kind, template=template, seed=seed))

    return make
