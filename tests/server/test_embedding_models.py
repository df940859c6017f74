"""Embedding models beside a model that writes text, over real HTTP with OpenAI's client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from embedding_folders import folder

from mlx_lm.embed import load_embedding_model


@pytest.fixture
def served(serve: Any, tiny_model: Any, tmp_path: Path) -> Any:
    path = tmp_path / "tiny-bert"
    path.mkdir()
    folder(path, "bert")
    with serve(model_id=tiny_model("llama"), models={"tiny-bert": str(path)}, max_loaded_models=2) as server:
        yield server, load_embedding_model(path)


def test_vectors_equal_those_of_python(served: Any) -> None:
    server, model = served
    texts = ["w5 w6 w7", "w8", "w9 w9"]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    reply = client.embeddings.create(model="tiny-bert", input=texts)
    wanted = np.array(model.embed([model.tokens(t) for t in texts]))
    np.testing.assert_allclose([row.embedding for row in reply.data], wanted, atol=1e-6)
    assert [row.index for row in reply.data] == [0, 1, 2]
    assert reply.usage.prompt_tokens == sum(len(model.tokens(t)) for t in texts)
    short = client.embeddings.create(model="tiny-bert", input=[[5, 6, 7]], dimensions=4, encoding_format="float")
    assert len(short.data[0].embedding) == 4


def test_each_kind_of_model_does_its_own_work(served: Any) -> None:
    server, _ = served
    wrong = server.post("/v1/embeddings", {"model": Path(server.settings.model_id).name, "input": "hello"})
    assert wrong.status_code == 400, wrong.text
    assert "embedding model" in wrong.json()["error"]["message"]
    body = {"model": "tiny-bert", "messages": [{"role": "user", "content": "w5"}]}
    wrong = server.post("/v1/chat/completions", body)
    assert wrong.status_code == 400, wrong.text
    assert "/v1/embeddings" in wrong.json()["error"]["message"]
    long = server.post("/v1/embeddings", {"model": "tiny-bert", "input": "w5 " * 100})
    assert long.status_code == 400
    assert "40" in long.json()["error"]["message"]
    kinds = {m["id"]: m["kind"] for m in server.get("/v1/models").json()["data"]}
    assert kinds["tiny-bert"] == "embed"
