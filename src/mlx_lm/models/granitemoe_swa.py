"""Granite with experts, windows and sinks. Source: https://huggingface.co/ibm-granite."""

from .granite_swa import Sinks, WindowArgs
from .granitemoeshared import Model as GraniteMoeShared
from .granitemoeshared import ModelArgs as GraniteMoeSharedArgs


class ModelArgs(WindowArgs, GraniteMoeSharedArgs):
    pass


class Model(Sinks, GraniteMoeShared):
    pass
