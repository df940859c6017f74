"""Granite with experts, windows and sinks. Source: https://huggingface.co/ibm-granite."""

from . import granitemoeshared
from .granite_swa import Sinks, WindowArgs


class ModelArgs(WindowArgs, granitemoeshared.ModelArgs):
    pass


class Model(Sinks, granitemoeshared.Model):
    pass
