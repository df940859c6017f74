"""Who may talk to the server, and how much: hosts, origins, keys, sizes, times."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
import pytest

from mlx_lm.errors import ConfigError
from mlx_lm.server.options import ServerSettings
from mlx_lm.server.security import check_bind, is_loopback

BODY = {"prompt": "fox", "max_tokens": 1}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.1", "LOCALHOST", "api.localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_bind(ServerSettings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example.org", ""])
def test_beyond_loopback_a_key_is_needed(host: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        check_bind(ServerSettings(host=host))
    check_bind(ServerSettings(host=host, api_keys=("secret",)))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8080", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("[::1]", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421),
        ("10.0.0.1", 421), ("169.254.169.254", 421),
    ],
)  # fmt: skip
def test_hosts(server: Any, host: str, status: int) -> None:
    reply = server.post("/v1/completions", BODY, headers={"host": host})
    assert reply.status_code == status


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost:3000", "file://"])
def test_web_pages_of_other_origins_are_refused(server: Any, origin: str, method: str) -> None:
    with server.client() as client:
        reply = client.request(method, "/v1/completions", json=BODY, headers={"origin": origin})
    assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers


def test_the_own_page_may(server: Any) -> None:
    reply = server.post("/v1/completions", BODY, headers={"origin": server.url})
    assert reply.status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_types_that_a_page_can_send_without_asking(server: Any, kind: str) -> None:
    with server.client() as client:
        reply = client.post("/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": kind})
    assert reply.status_code in (400, 415)


def test_origins_that_are_allowed(serve: Any, tiny_model: Any) -> None:
    page = "https://page.example"
    with serve(model_id=tiny_model(), allowed_origins=(page,), api_keys=("secret",)) as server:
        asked = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
        with server.client() as client:
            before = client.options("/v1/completions", headers=asked)
            assert before.status_code == 204
            assert before.headers["access-control-allow-origin"] == page
            assert before.headers["access-control-allow-headers"] == "x-api-key"
            assert "origin" in before.headers["vary"].lower()
            reply = client.post("/v1/completions", json=BODY, headers={"origin": page, "x-api-key": "secret"})
            assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == page
            refused = client.post("/v1/completions", json=BODY, headers={"origin": page})
            assert refused.status_code == 401 and "access-control-allow-origin" not in refused.headers
            assert client.post("/v1/completions", json=BODY, headers={"origin": page + ".x"}).status_code == 403


def test_keys(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), api_keys=("first", "second")) as server:
        good = [{"authorization": "Bearer first"}, {"authorization": "bearer second"}, {"x-api-key": "second"}]
        bad: list[dict[str, str]] = [{}, {"authorization": "Basic first"}, {"authorization": "Bearer"}]
        bad += [{"x-api-key": "firs"}, {"x-api-key": "first "[:4]}, {"authorization": "first"}]
        for headers in good:
            assert server.post("/v1/completions", BODY, headers=headers).status_code == 200
        for headers in bad:
            reply = server.post("/v1/completions", BODY, headers=headers)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["type"] == "authentication_error"
        reply = server.post("/v1/messages", {}, headers={"x-api-key": "no"})
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"
        for path in ("/health", "/ready"):
            assert server.get(path).status_code == 200
        for path in ("/metrics", "/status.json", "/v1/models"):
            assert server.get(path).status_code == 401
            assert server.get(path, headers=good[0]).status_code == 200


def test_a_body_that_is_too_large(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), max_body_bytes=4096) as server:
        large = {"prompt": "x" * 5000, "max_tokens": 1}
        reply = server.post("/v1/completions", large)
        assert reply.status_code == 413 and reply.headers["connection"] == "close"

        def pieces() -> Any:
            yield b'{"prompt": "'
            for _ in range(100):
                yield b"x" * 100
            yield b'"}'

        with server.client() as client:
            reply = client.post("/v1/completions", content=pieces(), headers={"content-type": "application/json"})
        assert reply.status_code == 413
        assert server.post("/v1/completions", BODY).status_code == 200


def _raw(server: Any, data: bytes, *, seconds: float = 5.0) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return received


def test_headers_that_are_too_large_or_broken(server: Any) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    for data in (
        head + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        head + b"Content-Length: -5\r\n\r\n",
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ):
        reply = _raw(server, data, seconds=2)
        assert reply == b"" or reply.split(b" ")[1][:1] == b"4", (data[:60], reply[:100])
    assert server.post("/v1/completions", BODY).status_code == 200


def test_slow_clients_are_cut_off(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), read_timeout=0.3) as server:
        start = time.monotonic()
        assert _raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: loc") == b""
        assert time.monotonic() - start < 2
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        reply = _raw(server, head + b"Content-Length: 500\r\n\r\n{")
        assert b" 408 " in reply
        with server.client() as client:  # a connection that is kept open is not a slow one
            assert client.post("/v1/completions", json=BODY).status_code == 200
            time.sleep(0.5)
            assert client.post("/v1/completions", json=BODY).status_code == 200


def test_connections_are_counted(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), max_connections=8) as server:
        many = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(30)]
        time.sleep(0.2)
        assert len(server.server.server_state.connections) <= 9
        for connection in many:
            connection.close()
        time.sleep(0.2)
        assert server.post("/v1/completions", BODY).status_code == 200


def test_request_ids(server: Any) -> None:
    assert server.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for given in ("", "a" * 100, "a b", 'x"y'):
        reply = server.get("/health", headers={"x-request-id": given})
        assert reply.headers["x-request-id"].startswith("req_")


def test_metrics_are_prometheus_text(server: Any) -> None:
    server.post("/v1/completions", BODY)
    server.get("/no/such/path?secret=1")
    text = server.get("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "time_to_first_token_seconds_bucket"):
        assert f"mlx_lm:{name}" in text
    assert "secret" not in text and 'handler="other",status="404"' in text
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rsplit(" ", 1)[1]) >= 0
    assert httpx.Headers(server.get("/metrics").headers)["content-type"].startswith("text/plain; version=0.0.4")
