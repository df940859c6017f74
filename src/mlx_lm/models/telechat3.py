"""TeleChat 3: Llama with YaRN under a name of its own. Source: https://huggingface.co/Tele-AI/TeleChat3-36B-Thinking."""

from . import llama

Model, ModelArgs = llama.Model, llama.ModelArgs
