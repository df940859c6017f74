"""GET /v1/models and /v1/models/{id}: what clients may name, in the form of the vendor that asks.

A request with an `anthropic-version` header is Anthropic's; every other one is OpenAI's. Model ids may hold slashes.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ..errors import ModelNotFoundError, RequestError
from .anthropic.models import model_list, model_object
from .errors import anthropic_error, openai_error
from .service import ModelInfo, Service

__all__ = ["model_routes", "openai_model"]


def openai_model(info: ModelInfo, name: str | None = None) -> dict[str, Any]:
    """A model as OpenAI's clients read it; `name` is an alias that it is listed under.

    What is not OpenAI's is this server's: `context_length`, `kind`, `loaded`, `adapters`, and `root`, the model behind
    an alias.
    """
    return {
        "id": name or info.id,
        "object": "model",
        "created": info.created,
        "owned_by": "mlx-lm",
        "root": info.id,
        "kind": info.kind,
        "context_length": info.context_length,
        "loaded": info.loaded,
        "adapters": list(info.adapters),
    }


def model_routes(service: Service) -> list[Route]:
    """The routes, for the application to mount."""

    async def models(request: Request) -> JSONResponse:
        if _anthropic(request):
            try:
                return JSONResponse(model_list(service.models(), request.query_params))
            except RequestError as error:
                return JSONResponse(anthropic_error(error, _request_id(request)), 400)
        data = [openai_model(info, name) for info in service.models() for name in (None, *info.aliases)]
        return JSONResponse({"object": "list", "data": data})

    async def model(request: Request) -> JSONResponse:
        wanted = request.path_params["model_id"]
        if (info := service.model(wanted)) is not None:
            name = None if wanted == info.id else wanted
            return JSONResponse((model_object if _anthropic(request) else openai_model)(info, name))
        error = ModelNotFoundError(f"No model is named {wanted[:200]!r}; /v1/models lists those that are.")
        body = anthropic_error(error, _request_id(request)) if _anthropic(request) else openai_error(error)
        return JSONResponse(body, 404)

    return [
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{model_id:path}", model, methods=["GET"]),
    ]


def _anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)
