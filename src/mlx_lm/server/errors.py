"""One table: what went wrong -> an HTTP status and each vendor's words for it.

Contract: `classify` knows every error of the package; anything else is an internal error whose text is logged, never
sent. `openai_error` and `anthropic_error` are the bodies, for replies and for errors in the middle of a stream.
Messages that leave the server name no path, address or trace.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from ..errors import (
    AdapterError,
    ChatTemplateError,
    ContextLengthError,
    DeadlineError,
    DownloadError,
    MemoryBudgetError,
    MLXLMError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    UnsupportedError,
)

__all__ = [
    "HTTPError",
    "Problem",
    "anthropic_error",
    "classify",
    "error_response",
    "is_anthropic",
    "openai_error",
    "validation_error",
]

_log = logging.getLogger(__name__)


class HTTPError(MLXLMError):
    """A request that is refused before any work: `param` names the field, `code` is OpenAI's word for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after
        super().__init__(message)


@dataclass(frozen=True)
class Problem:
    """A failure in HTTP's and both vendors' words."""

    status: int
    message: str
    openai_type: str
    openai_code: str | None
    anthropic_type: str
    param: str | None = None
    retry_after: float | None = None


# Exception -> (status, OpenAI's type and code, Anthropic's type). The first class that fits counts.
_TABLE: Sequence[tuple[type[Exception], tuple[int, str, str | None, str]]] = (
    (ContextLengthError, (400, "invalid_request_error", "context_length_exceeded", "invalid_request_error")),
    (MemoryBudgetError, (400, "invalid_request_error", "memory_budget_exceeded", "invalid_request_error")),
    (ModelNotFoundError, (404, "invalid_request_error", "model_not_found", "not_found_error")),
    (OverloadedError, (503, "server_error", "overloaded", "overloaded_error")),
    (DeadlineError, (504, "server_error", "timeout", "timeout_error")),
    (ChatTemplateError, (400, "invalid_request_error", "invalid_messages", "invalid_request_error")),
    (AdapterError, (400, "invalid_request_error", "invalid_adapter", "invalid_request_error")),
    (UnsupportedError, (400, "invalid_request_error", "unsupported", "invalid_request_error")),
    (RequestError, (400, "invalid_request_error", "invalid_value", "invalid_request_error")),
    (DownloadError, (503, "server_error", "model_unavailable", "api_error")),
    # What is left of the tree speaks of files, configs and weights: the operator's business, and it may name paths.
    (MLXLMError, (503, "server_error", "model_unavailable", "api_error")),
)
# Status -> (OpenAI's type, Anthropic's type), for `HTTPError`s.
_BY_STATUS = {
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    503: ("server_error", "overloaded_error"),
    504: ("server_error", "timeout_error"),
}
_HIDDEN = "The model could not be used; the server's log says why."


def classify(error: BaseException) -> Problem:
    """The HTTP form of an error."""
    if isinstance(error, HTTPError):
        fallback = ("invalid_request_error",) * 2 if error.status < 500 else ("server_error", "api_error")
        openai_type, anthropic_type = _BY_STATUS.get(error.status, fallback)
        return Problem(
            error.status, str(error), openai_type, error.code, anthropic_type, error.param, error.retry_after
        )
    for kind, (status, openai_type, code, anthropic_type) in _TABLE:
        if isinstance(error, kind):
            message = _HIDDEN if code == "model_unavailable" else str(error)
            retry_after = getattr(error, "retry_after", None)
            return Problem(status, message, openai_type, code, anthropic_type, None, retry_after)
    return Problem(500, "An internal error ended this request.", "server_error", "internal_error", "api_error")


def openai_error(error: BaseException) -> dict[str, Any]:
    """OpenAI's body: {"error": {"message", "type", "param", "code"}}."""
    problem = classify(error)
    body = {"message": problem.message, "type": problem.openai_type, "param": problem.param}
    return {"error": {**body, "code": problem.openai_code}}


def anthropic_error(error: BaseException, request_id: str | None = None) -> dict[str, Any]:
    """Anthropic's body: {"type": "error", "error": {"type", "message"}}, with "request_id" if there is one."""
    problem = classify(error)
    message = problem.message
    if isinstance(error, ContextLengthError):  # the words by which Claude Code knows that it must compact
        message = f"prompt is too long: {error.prompt_tokens} tokens > {error.context_length} maximum"
    body: dict[str, Any] = {"type": "error", "error": {"type": problem.anthropic_type, "message": message}}
    return body if request_id is None else {**body, "request_id": request_id}


def is_anthropic(path: str) -> bool:
    """Whether a path speaks Anthropic's protocol."""
    return path == "/v1/messages" or path.startswith(("/v1/messages/", "/api/"))


def validation_error(error: Any) -> HTTPError:
    """A pydantic ValidationError as a 400 that names the first wrong field and what was expected there."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return HTTPError(400, message, param=place or None, code="invalid_value")


def error_response(request: Request, error: BaseException) -> JSONResponse:
    """The reply to a request that failed, in the shape of the protocol that its path belongs to."""
    problem = classify(error)
    request_id = getattr(request.state, "request_id", None)
    if problem.status >= 500 and problem.openai_code in ("internal_error", "model_unavailable"):
        _log.error("Request %s to %s failed", request_id, request.url.path, exc_info=error)
    headers = {} if problem.retry_after is None else {"Retry-After": str(max(1, math.ceil(problem.retry_after)))}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = anthropic_error(error, request_id) if is_anthropic(request.url.path) else openai_error(error)
    return JSONResponse(body, problem.status, headers)
