"""The chat page in headless Chromium, against a real server with a small model.

Needs `pip install playwright` and a Chromium: on the path, or named by MLX_LM_CHROMIUM. Screenshots go to the folder
MLX_LM_SCREENSHOTS, if there is one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM = os.environ.get("MLX_LM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [pytest.mark.real_model, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "mlx_lm.server", "--model", "smollm2", "--port", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{address}/ready", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _page(browser: Any, url: str, **options: Any) -> Any:
    """An opened page that fails the test when a script fails or the content policy is violated."""
    page = browser.new_context(**options).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda line: line.type == "error" and page.problems.append(line.text))
    page.goto(url)
    page.wait_for_selector("#model option", state="attached")
    return page


def _shot(page: Any, name: str) -> None:
    folder = os.environ.get("MLX_LM_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def _ask(page: Any, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("desktop", {"viewport": {"width": 1280, "height": 800}}),
        (
            "phone",
            {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"},
        ),
    ],
)
def test_a_conversation(browser: Any, url: str, name: str, options: dict[str, Any]) -> None:
    page = _page(browser, url, **options)
    page.click("#settings-toggle")
    page.fill("#temperature", "0")
    page.fill("#max_tokens", "60")
    page.fill("#system", "You answer with code.")
    page.click("#settings-toggle")
    _ask(page, "Write a Python function that adds two numbers.")
    page.wait_for_function("() => document.querySelector('.answer .text')?.textContent.length > 40")
    _shot(page, f"{name}-streaming")
    page.wait_for_selector(".foot", timeout=60000)
    _shot(page, f"{name}-answer")
    assert "tokens/s" in page.inner_text(".foot")
    assert page.locator(".answer").count() == 1
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not wide, "the page scrolls sideways"
    if page.locator("#live").is_hidden():
        page.click("#live-toggle")
    page.wait_for_function("() => document.getElementById('live-models').textContent.includes('smollm2')")
    _shot(page, f"{name}-live")
    page.reload()
    page.wait_for_selector(".answer .foot")  # the conversation is still there
    assert page.problems == []


def test_an_answer_can_be_stopped(browser: Any, url: str) -> None:
    page = _page(browser, url)
    _ask(page, "Count from one to a thousand in words.")
    page.wait_for_function("() => document.querySelector('.answer .text')?.textContent.length > 10")
    assert page.inner_text("#send") == "Stop"
    page.click("#send")
    page.wait_for_selector(".foot")
    assert "stopped" in page.inner_text(".foot")
    assert page.inner_text("#send") == "Send"
    for _ in range(100):
        if httpx.get(f"{url}/status.json", trust_env=False).json()["running"] == 0:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the server still works on the answer")
    assert page.problems == []


def test_text_never_becomes_markup(browser: Any, url: str) -> None:
    page = _page(browser, url)
    hostile = (
        "<img src=x onerror=alert(1)> **<script>alert(2)</script>** [go](javascript:alert(3)) "
        "[ok](https://example.org/?a=1&b=2) `<b>` \n\n| a | <i> |\n| - | - |\n| <u> | 2 |\n\n- one\n  - two\n\n"
        "```html\n<script>alert(4)</script>\n```\n" + "*" * 3000 + "[" * 3000 + "\n" + "> " * 300 + "deep"
    )
    found = page.evaluate(
        """async (text) => {
            const { markdown } = await import("/static/markdown.js");
            const box = document.createElement("div");
            box.append(...markdown(text));
            const tags = [...new Set([...box.querySelectorAll("*")].map((node) => node.tagName))];
            return { tags, links: [...box.querySelectorAll("a")].map((a) => a.href), text: box.textContent };
        }""",
        hostile,
    )
    assert not {"IMG", "SCRIPT", "I", "U", "B"} & set(found["tags"])
    assert {"STRONG", "TABLE", "UL", "PRE", "CODE", "BLOCKQUOTE"} <= set(found["tags"])
    assert found["links"] == ["https://example.org/?a=1&b=2"]
    assert "<img src=x onerror=alert(1)>" in found["text"]
    assert page.problems == []
