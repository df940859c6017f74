"""TeleChat 3: Llama with YaRN under a name of its own. Source: https://huggingface.co/Tele-AI/TeleChat3-36B-Thinking."""

from . import llama


class ModelArgs(llama.ModelArgs):
    pass


class Model(llama.Model):
    pass
