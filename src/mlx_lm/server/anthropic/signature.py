"""The signature of a thinking block: what brings a model's reasoning back when the client was not shown it.

A client that asks for `display: "omitted"` gets a thinking block without text, and sends it back as it came. Templates
that keep reasoning within a round of tools need its text, so it travels in the signature. A block whose text was shown
has a short digest there, because clients drop blocks with an empty one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

__all__ = ["read", "sign"]

_TEXT = "mlxt1."
_DIGEST = "mlxd1."


def sign(thinking: str, *, omitted: bool) -> str:
    """The signature of a block with this text; `omitted`: the text is not shown, so the signature carries it."""
    data = thinking.encode("utf-8", errors="replace")
    if omitted:
        return _TEXT + base64.b64encode(data).decode("ascii")
    return _DIGEST + base64.b64encode(hashlib.sha256(data).digest()[:18]).decode("ascii")


def read(signature: object) -> str:
    """The text that a signature carries; "" for a digest, another server's signature or a damaged one."""
    if not isinstance(signature, str) or not signature.startswith(_TEXT):
        return ""
    try:
        return base64.b64decode(signature[len(_TEXT) :], validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return ""
