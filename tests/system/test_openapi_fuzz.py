"""Requests made from the server's own OpenAPI document, right and wrong ones: 2,000 cases against a real server.

No reply has status 5xx but a deliberate 503 or 504, none takes long, and each is of the shape that the document says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from served import Served, served_tiny

from mlx_lm.server.docs import openapi_document

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import checks  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # The client's own: a header or a body that it cannot write is another case for it.
    pytest.mark.filterwarnings("ignore"),
]
API = schemathesis.openapi.from_dict(openapi_document())
POSTS = API.include(method="POST")
OTHERS = API.exclude(method="POST")
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
SECONDS = 20.0  # a machine that runs other things too
DELIBERATE = (503, 504)
NO_SHRINKING_TROUBLE = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ["--max-context-length", "96", "--max-tokens", "8", "--aliases", '{"*": "tiny"}']
    with served_tiny(tmp_path_factory.mktemp("fuzz"), *options) as running:
        yield running


def check(case: Any, server: Served) -> None:
    started = time.monotonic()
    response = case.call(base_url=server.url, timeout=SECONDS)
    assert time.monotonic() - started < SECONDS
    if response.status_code in DELIBERATE:
        return
    assert response.status_code < 500, response.text
    if response.status_code not in (405, 408, 415):
        case.validate_response(response, checks=CHECKS)


@POSTS.parametrize()
@settings(max_examples=340, **NO_SHRINKING_TROUBLE)
def test_bodies(case: Any, server: Served) -> None:
    check(case, server)


@OTHERS.parametrize()
@settings(max_examples=40, **NO_SHRINKING_TROUBLE)
def test_pages(case: Any, server: Served) -> None:
    check(case, server)


def test_the_server_still_answers(server: Served) -> None:
    import httpx

    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        assert client.get("/health").status_code == 200
        reply = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3})
        assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 3
