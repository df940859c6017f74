"""Phixtral: Phi 2 with experts, merged from fine-tuned copies. Source: https://huggingface.co/mlabonne/phixtral-4x2_8."""

from functools import partial

from ..nn import MLP, Attention, LayerNames, SwitchMLP, named
from .parts import DecoderArgs, DenseModel, ModelNames, Rename, Stack


class ModelArgs(DecoderArgs):
    feed_forward_ratio = 4
    aliases = {"num_heads": "num_attention_heads", "num_vocab": "vocab_size"}
    hidden_size: int = 2560
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    vocab_size: int = 51200
    hidden_act: str = "gelu_new"
    layer_norm_eps: float = 1e-5
    rotary_dim: int = 32
    num_local_experts: int = 4
    num_experts_per_tok: int = 2


FusedAttention = named(Attention, qkv_name="Wqkv", out_name="out_proj")


class Model(DenseModel):
    names = ModelNames("transformer", "wte", "h", "ln_f", "lm_head")
    layer_names = LayerNames("mixer", "moe", "ln", None, None)
    attention_type = FusedAttention
    attention = {"fused": True, "bias": True, "out_bias": True}
    moe_options = {"blocks": (MLP, partial(SwitchMLP, bias=True))}
    routing_options = {"score": "softmax_topk"}
    parallel = head_bias = True
    rules = (
        Rename(r"\.embd\.wte\.", ".wte."),
        Rename(r"^lm_head\.ln\.", "transformer.ln_f."),
        Rename(r"^lm_head\.linear\.", "lm_head."),
        Stack(r"(?P<at>.*\.moe)\.mlp\.(?P<expert>\d+)\.(?P<kind>fc[12]\.\w+)", r"\g<at>.switch_mlp.\g<kind>"),
    )
