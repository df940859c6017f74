"""Tool calls as grammars: what a model may write to call the tools of a request, in its own format."""

from .forms import FORMS, REFUSED
from .grammar import call_grammar, marked_only, writes_messages

__all__ = ["FORMS", "REFUSED", "call_grammar", "marked_only", "writes_messages"]
