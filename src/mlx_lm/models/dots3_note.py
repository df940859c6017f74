"""dots3.note's multimodal checkpoints: the text tower."""

from . import dots3_note_text
from .multimodal import TextTower

ModelArgs = dots3_note_text.ModelArgs


class Model(TextTower):
    text_model = dots3_note_text.Model
