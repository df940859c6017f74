"""TeleChat 3: Llama with YaRN under a name of its own. Source: https://huggingface.co/Tele-AI/TeleChat3-36B-Thinking."""

from dataclasses import dataclass

from . import llama


@dataclass
class ModelArgs(llama.ModelArgs):
    pass


class Model(llama.Model):
    pass
