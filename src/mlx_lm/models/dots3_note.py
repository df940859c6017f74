"""dots3.note's multimodal checkpoints: the text tower."""

from . import dots3_note_text
from .multimodal import text_tower

Model, ModelArgs = text_tower(__name__, dots3_note_text)
