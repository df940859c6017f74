"""All that a family file is made of beside blocks: models, configs, experts, weight rules. Knows no family."""
# ruff: noqa: F403

from .base import *
from .config import *
from .dense import *
from .experts import *
from .multimodal import *
from .weights import *
