"""GLM-4-0414: GLM with norms around both branches. Source: https://huggingface.co/zai-org/GLM-4-9B-0414."""

from ..nn import LayerNames
from . import glm

ModelArgs = glm.ModelArgs


class Model(glm.Model):
    layer_names = LayerNames(post_mixer="post_self_attn_layernorm", post_feed_forward="post_mlp_layernorm")
