"""OpenAI's own client over a socket, and a service without a model: what must be raised, is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fakes import FakeService, answer

from mlx_lm.errors import OverloadedError
from mlx_lm.server.app import create_app
from mlx_lm.server.options import ServerSettings
from mlx_lm.server.work import Started, Text

openai = pytest.importorskip("openai")
HELLO: Any = [{"role": "user", "content": "Hello"}]
BROKEN = [Started(1, 0), Text("Hel"), RuntimeError("secret")]


@contextmanager
def client_of(service: FakeService, **settings: Any) -> Iterator[Any]:
    """A client of the whole application, guards included."""
    app = create_app(ServerSettings(**settings), service)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def broken() -> Iterator[Any]:
    with client_of(FakeService(BROKEN)) as client:
        yield client


def test_error_in_the_middle_of_chat_is_raised(broken: Any) -> None:
    texts = []
    with pytest.raises(openai.APIError) as raised:
        for chunk in broken.chat.completions.create(model="tiny", messages=HELLO, stream=True):
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "Hel"] and raised.value.code == "internal_error" and "secret" not in str(raised.value)


def test_error_in_the_middle_of_completions_is_raised(broken: Any) -> None:
    with pytest.raises(openai.APIError):
        list(broken.completions.create(model="tiny", prompt=["a", "b"], stream=True))


def test_error_in_the_middle_of_a_response_is_raised(broken: Any) -> None:
    kinds = []
    with pytest.raises(openai.APIError):
        for event in broken.responses.create(model="tiny", input="Hello", stream=True):
            kinds.append(event.type)
    assert kinds[-1] == "response.failed"


def test_error_of_a_whole_answer(broken: Any) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        broken.chat.completions.create(model="tiny", messages=HELLO)
    assert raised.value.status_code == 500 and "secret" not in str(raised.value)


def test_overload_says_when_to_come_back() -> None:
    with client_of(FakeService(OverloadedError(9, 3.0))) as client:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as raised:
                client.chat.completions.create(model="tiny", messages=HELLO, stream=stream)
            assert raised.value.status_code == 503 and raised.value.response.headers["retry-after"] == "3"


def test_embeddings_come_packed_and_are_unpacked() -> None:
    service = FakeService()
    with client_of(service) as client:
        reply = client.embeddings.create(model="tiny", input=["a", "b"])
        assert [list(item.embedding) for item in reply.data] == [[1.0, 0.0], [1.0, 0.0]]
        plain = client.embeddings.create(model="tiny", input=[1, 2], encoding_format="float", dimensions=2)
        assert plain.data[0].embedding == [1.0, 0.0] and service.embedded[-1] == ("tiny", [(1, 2)], 2)


def test_keys() -> None:
    with client_of(FakeService(answer()), api_keys=("key",)) as client:
        assert client.chat.completions.create(model="tiny", messages=HELLO).choices[0].message.content == "Hello!"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
    with client_of(FakeService(answer()), api_keys=("key", "other")) as client:
        client.chat.completions.create(model="tiny", messages=HELLO)


def test_key_salts_the_prefix_cache() -> None:
    service = FakeService(answer())
    with client_of(service, api_keys=("key", "other")) as client:
        for key in ("key", "other", "key"):
            client.with_options(api_key=key).chat.completions.create(model="tiny", messages=HELLO)
    salts = [work.cache_salt for work in service.works]
    assert salts[0] == salts[2] != salts[1] and all(salts)


def test_leaving_a_stream_cancels_its_job() -> None:
    service = FakeService(answer("a " * 2000), delay=0.005)
    with client_of(service) as client:
        stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        next(iter(stream))
        stream.close()
        for _ in range(200):
            if service.jobs[0].cancelled:
                break
            threading.Event().wait(0.01)
        assert service.jobs[0].cancelled


def test_strict_fields() -> None:
    with (
        client_of(FakeService(answer()), strict_fields=True) as client,
        pytest.raises(openai.BadRequestError) as raised,
    ):
        client.chat.completions.create(model="tiny", messages=HELLO, extra_body={"brand_new": 1})
    assert raised.value.param == "brand_new"
