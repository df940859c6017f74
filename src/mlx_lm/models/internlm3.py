"""InternLM 3: Llama under other names for its biases. Source: https://huggingface.co/internlm/internlm3-8b-instruct."""

from .parts import DenseModel, LlamaArgs


class ModelArgs(LlamaArgs):
    head_dim: int | None = 128
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 32768
    aliases = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}


Model = DenseModel
