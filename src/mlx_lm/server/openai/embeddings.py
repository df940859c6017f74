"""POST /v1/embeddings: the body, the rule of every field, and the reply."""

import base64
import struct
from typing import Any, Literal

from pydantic import Field

from ..fields import Body, FieldTable, honoured, ignored
from ..service import Embeddings
from .completions import Inputs

__all__ = ["EMBEDDINGS", "EmbeddingRequest", "embedding_list"]


class EmbeddingRequest(Body):
    """Body of POST /v1/embeddings."""

    input: Inputs
    model: str | None = Field(None, max_length=512)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=65536)


EMBEDDINGS = FieldTable(
    "POST",
    "/v1/embeddings",
    "Vectors of texts",
    EmbeddingRequest,
    {
        "input": honoured("A string, a list of token ids, or a list of either; at most 2048."),
        "model": honoured("An embedding model of /v1/models; without it the default one."),
        "encoding_format": honoured("float, or base64 of little-endian 32-bit floats."),
        "dimensions": honoured("The first so many components, made a unit vector again."),
        "user": ignored("It changes no vector; API keys tell clients apart."),
    },
)


def embedding_list(found: Embeddings, encoding: Literal["float", "base64"]) -> dict[str, Any]:
    """The reply: one vector for each input, in order."""
    data = [
        {"object": "embedding", "index": index, "embedding": list(vector) if encoding == "float" else _packed(vector)}
        for index, vector in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return {"object": "list", "data": data, "model": found.model, "usage": usage}


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
