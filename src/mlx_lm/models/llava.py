"""LLaVA: the text tower, a Llama, Mistral, Qwen 2 or Gemma. Source: https://arxiv.org/abs/2304.08485."""

from . import gemma, llama, mistral, qwen2
from .multimodal import named_text_tower

Model, ModelArgs = named_text_tower(__name__, "llama", llama=llama, mistral=mistral, qwen2=qwen2, gemma=gemma)
