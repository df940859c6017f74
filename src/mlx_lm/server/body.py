"""A request's body as JSON: what a hostile or broken client can send ends in a RequestError, never in a crash.

Knows nothing of the protocols; the limit on the body's size is the application's business.
"""

import json
from typing import Any, NoReturn

from starlette.requests import Request

from ..errors import RequestError

__all__ = ["MAX_DEPTH", "parse_json", "read_json"]

# Deeper than any tool schema seen in the field, and far from Python's recursion limit.
MAX_DEPTH = 100


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RequestError: the content type is one that a web page can send without asking (`text/plain`, forms), or the
            body is not a JSON object.
    """
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if not (kind == "application/json" or kind.endswith("+json")):
        raise RequestError(f"The content type must be application/json, not {kind[:80]!r}.")
    return parse_json(await request.body())


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object from bytes: UTF-8, no NaN or infinity, no lone surrogates, at most `MAX_DEPTH` deep."""
    try:
        text = data.decode("utf-8-sig")
        body = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise RequestError(f"The request body is not valid UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise RequestError("The request body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"The request body is not valid JSON: {error.msg} (character {error.pos}).") from None
    except ValueError as error:  # a number of thousands of digits, or a constant
        raise RequestError(f"The request body is not valid JSON: {str(error)[:120]}") from None
    if not isinstance(body, dict):
        raise RequestError("The request body must be a JSON object.")
    _check(body)
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number.")


def _check(body: dict[str, Any]) -> None:
    """RequestError when a value is nested too deep or a text cannot be written as UTF-8."""
    waiting: list[tuple[Any, int]] = [(body, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if not value.isascii():
                _check_text(value)
        elif isinstance(value, float):
            if value in (float("inf"), float("-inf")):
                raise RequestError("The request body holds a number that is too large.")
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise RequestError(f"The request body is nested more than {MAX_DEPTH} levels deep.")
            if isinstance(value, dict):
                waiting.extend((key, depth) for key in value)
                waiting.extend((item, depth + 1) for item in value.values())
            else:
                waiting.extend((item, depth + 1) for item in value)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The request body is not valid JSON: half of a surrogate pair in a string (character {error.start})."
        ) from None
