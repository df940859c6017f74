"""dots3.note's multimodal checkpoints: the text tower."""

from .dots3_note_text import Model as TextModel
from .dots3_note_text import ModelArgs
from .multimodal import TextTower

__all__ = ["Model", "ModelArgs"]


class Model(TextTower):
    text_model = TextModel
