"""The chat page: static files at / and /static/, under a policy that lets them load and reach nothing else."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .errors import HTTPError

__all__ = ["CONTENT_POLICY", "web_routes"]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "png": "image/png"}


def web_routes() -> list[Route]:
    """The routes, for the application to mount; none when the page is not installed."""
    files = _files()

    async def page(request: Request) -> Response:
        return _reply(files["index.html"])

    async def static(request: Request) -> Response:
        name = request.path_params["name"]  # a name of the list, never a path
        if name not in files:
            raise HTTPError(404, "There is no such file.")
        return _reply(files[name])

    if "index.html" not in files:
        return []
    return [Route("/", page, methods=["GET"]), Route("/static/{name}", static, methods=["GET"])]


def _files() -> dict[str, Traversable]:
    folder = resources.files("mlx_lm.server") / "static"
    if not folder.is_dir():
        return {}
    return {file.name: file for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}


def _reply(file: Traversable) -> Response:
    kind = _TYPES[file.name.rpartition(".")[2]]
    headers = {"Content-Security-Policy": CONTENT_POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return Response(file.read_bytes(), media_type=kind, headers=headers)
