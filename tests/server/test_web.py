"""The chat page's files: what is served, under which policy, and that the policy can hold."""

from __future__ import annotations

import re
from typing import Any

from mlx_lm.server.web import CONTENT_POLICY


def test_the_page_and_all_that_it_names_are_served(server: Any) -> None:
    page = server.get("/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == CONTENT_POLICY
    names = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(set(names)) >= 3
    script = server.get("/static/app.js")
    names += re.findall(r'from "(/static/[^"]+)"', script.text)
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name in set(names):
        reply = server.get(name)
        assert reply.status_code == 200, name
        assert reply.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert reply.headers["content-security-policy"] == CONTENT_POLICY
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(server: Any) -> None:
    page = server.get("/").text
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", page)
    script = server.get("/static/app.js").text + server.get("/static/markdown.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)
    everything = page + script + server.get("/static/app.css").text
    assert not re.search(r"""(?:src|href|from|import|url|fetch)\s*[=(]?\s*["'(]+(?:https?:)?//""", everything)


def test_no_path_leads_out(server: Any) -> None:
    for path in ("/static/../web.py", "/static/..%2fweb.py", "/static/", "/static/nothing.js"):
        assert server.get(path).status_code in (404, 405)
