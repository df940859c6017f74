"""The list of models in Anthropic's form.

Contract: `model_list` pages as the vendor does: `limit`, `after_id`, `before_id`; `has_more`, `first_id`, `last_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ...errors import RequestError
from ..service import ModelInfo

__all__ = ["model_list", "model_object"]


def model_object(info: ModelInfo, name: str | None = None) -> dict[str, Any]:
    """A model as the vendor's clients read it; `name` is an alias that it is listed under."""
    return {
        "type": "model",
        "id": name or info.id,
        "display_name": info.id if name is None else f"{name} ({info.id})",
        "created_at": datetime.fromtimestamp(info.created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": info.context_length,
        "max_tokens": info.context_length,
    }


def model_list(models: Sequence[ModelInfo], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the models that write, each followed by its aliases. RequestError for a malformed query."""
    writers = [info for info in models if info.kind == "generate"]
    entries = [model_object(info, name) for info in writers for name in (None, *info.aliases)]
    limit = _limit(query.get("limit", "20"))
    ids = [entry["id"] for entry in entries]
    if (after := query.get("after_id")) is not None:
        rest = entries[_place(ids, after, "after_id") + 1 :]
        page, more = rest[:limit], len(rest) > limit
    elif (before := query.get("before_id")) is not None:
        rest = entries[: _place(ids, before, "before_id")]
        page, more = rest[-limit:], len(rest) > limit
    else:
        page, more = entries[:limit], len(entries) > limit
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"data": page, "has_more": more, "first_id": first, "last_id": last}


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 1000:
        raise RequestError("limit: must be a whole number from 1 to 1000.")
    return int(text)


def _place(ids: Sequence[str], name: str, where: str) -> int:
    if name not in ids:
        raise RequestError(f"{where}: no model has this id.")
    return ids.index(name)
