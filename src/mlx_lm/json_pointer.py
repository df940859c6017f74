"""Where a reference of a JSON schema leads inside its document.

Contract: `follow` reads a reference as a fragment with a JSON pointer, never leaves the document and never raises.
Source: RFC 6901. Percent-encoded characters are taken as they stand.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["follow"]


def follow(root: Any, reference: Any) -> Any:
    """What "#", "#/$defs/point" or "#/anyOf/0" leads to in `root`; None for other references and where nothing is."""
    if not isinstance(reference, str) or not reference.startswith("#") or reference[1:2] not in ("", "/"):
        return None
    found = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            return None
    return found
