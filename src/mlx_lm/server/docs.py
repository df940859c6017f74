"""Documentation made from the field tables: Markdown for the repository, /openapi.json and one page at /docs.

The page needs no script and nothing from elsewhere. Which endpoints there are is told here, once.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from .. import __version__
from .anthropic.schema import COUNT, MESSAGES
from .fields import FieldTable
from .openai.chat import CHAT
from .openai.completions import COMPLETIONS
from .openai.embeddings import EMBEDDINGS
from .openai.responses import RESPONSES
from .openapi import Plain, document

__all__ = ["ANTHROPIC_TABLES", "OPENAI_TABLES", "PLAIN", "doc_routes", "markdown", "openapi_document"]

OPENAI_TABLES: tuple[FieldTable[Any], ...] = (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS)
ANTHROPIC_TABLES: tuple[FieldTable[Any], ...] = (MESSAGES, COUNT)
PLAIN = (
    Plain("GET", "/v1/models", "The models that may be named"),
    Plain("GET", "/v1/models/{model_id}", "One model", parameters=("model_id",)),
    Plain("GET", "/health", "Whether the process lives"),
    Plain("GET", "/ready", "Whether requests are taken"),
    Plain("GET", "/metrics", "Prometheus metrics", media="text/plain"),
    Plain("GET", "/status.json", "Queue, batch, cache and memory"),
)
_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;font-size:1.15rem}code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;
border-bottom:1px solid #8884}.refused{color:#c33}.ignored{color:#888}.honoured{color:#283}
@media(prefers-color-scheme:dark){.refused{color:#f77}.honoured{color:#6c8}}
""".strip()
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all endpoints."""
    return document([*OPENAI_TABLES, *ANTHROPIC_TABLES], PLAIN, __version__)


def markdown(title: str, introduction: str, tables: Sequence[FieldTable[Any]]) -> str:
    """A document with one table of fields for each endpoint."""
    parts = [f"# {title}\n\n{introduction}\n"]
    for table in tables:
        parts.append(f"\n## {table.method.upper()} {table.path}\n\n{table.summary}.\n\n| Field | | |\n|---|---|---|\n")
        for path, rule in sorted(table.rules.items(), key=_order):
            note = rule.note.replace("|", "\\|")
            neutral = ", ".join(f"`{_json(value)}`" for value in rule.neutral)
            passes = f" ({neutral} passes)" if neutral else ""
            parts.append(f"| `{path}` | {rule.fate} | {note}{passes} |\n")
    return "".join(parts)


def doc_routes() -> list[Route]:
    """/openapi.json and /docs, for the application to mount."""
    api = openapi_document()
    page = _page()

    async def openapi(_: Request) -> JSONResponse:
        return JSONResponse(api)

    async def docs(_: Request) -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _POLICY})

    return [Route("/openapi.json", openapi, methods=["GET"]), Route("/docs", docs, methods=["GET"])]


def _page() -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>mlx-lm API</title><style>{_STYLE}</style><h1>mlx-lm {html.escape(__version__)}</h1>",
        "<p>Every field of a request is honoured, refused by name, or ignored on purpose. "
        "The same as <a href='/openapi.json'>OpenAPI</a>.</p><h2>Without a body</h2><table>",
    ]
    for plain in PLAIN:
        parts.append(f"<tr><td><code>{plain.method} {plain.path}</code><td>{html.escape(plain.summary)}")
    parts.append("</table>")
    for table in (*OPENAI_TABLES, *ANTHROPIC_TABLES):
        parts.append(f"<h2><code>{table.method.upper()} {table.path}</code></h2>")
        parts.append(f"<p>{html.escape(table.summary)}.<table>")
        for path, rule in sorted(table.rules.items(), key=_order):
            parts.append(f"<tr><td><code>{path}</code><td class={rule.fate}>{rule.fate}<td>{html.escape(rule.note)}")
        parts.append("</table>")
    return "".join(parts)


def _order(item: tuple[str, Any]) -> int:
    return ("honoured", "refused", "ignored").index(item[1].fate)


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
