"""Where mlx-lm's users import loading from."""

from .models.adapters import load_adapters
from .models.load import load, load_config, load_model
from .models.registry import MODEL_REMAPPING
from .models.registry import get_classes as _get_classes
from .tokenizer import load_tokenizer

__all__ = ["MODEL_REMAPPING", "_get_classes", "load", "load_adapters", "load_config", "load_model", "load_tokenizer"]
