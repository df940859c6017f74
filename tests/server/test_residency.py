"""Several models, by name: loaded when asked for, unloaded when unused; adapters over one base; prefixes kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_lm import generate, load
from mlx_lm.errors import ConfigError, RequestError
from mlx_lm.server.catalog import Catalog
from mlx_lm.server.options import ServerSettings

CHAT = {"messages": [{"role": "user", "content": "the quick brown fox"}], "max_tokens": 12, "temperature": 0}


def _answer(server: Any, **fields: Any) -> str:
    reply = server.post("/v1/chat/completions", {**CHAT, **fields})
    assert reply.status_code == 200, reply.text[:300]
    return reply.json()["choices"][0]["message"]["content"]


def _adapter(folder: Path, model: str, seed: int) -> str:
    """A random LoRA adapter of a tiny llama."""
    folder.mkdir()
    mx.random.seed(seed)
    weights = {}
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_a"] = mx.random.normal((64, 4))
        weights[f"{name}.lora_b"] = mx.random.normal((4, 64))
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 4.0, "dropout": 0.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def test_models_are_loaded_on_demand_and_the_longest_unused_goes(serve: Any, tiny_model: Any) -> None:
    others = {"b": tiny_model("llama", seed=8), "c": tiny_model("hybrid")}
    with serve(model_id=tiny_model(), models=others, max_loaded_models=2) as server:
        default = server.service.catalog.default.id
        first = _answer(server)
        assert set(server.service.residency.loaded) == {default}
        assert _answer(server, model="b") != first
        assert set(server.service.residency.loaded) == {default, "b"}
        _answer(server)
        _answer(server, model="c")
        assert set(server.service.residency.loaded) == {default, "c"}
        assert _answer(server) == first
        listed = {m["id"]: m["loaded"] for m in server.get("/v1/models").json()["data"]}
        assert listed == {default: True, "b": False, "c": True}


def test_unused_models_go_after_a_while_but_not_pinned_ones(serve: Any, tiny_model: Any) -> None:
    others = {"b": tiny_model("llama", seed=8)}
    with serve(model_id=tiny_model(), models=others, max_loaded_models=2, model_ttl=0.3, pin=("b",)) as server:
        first = _answer(server)
        end = time.monotonic() + 5
        while len(server.service.residency.loaded) > 1 and time.monotonic() < end:
            time.sleep(0.02)
        assert set(server.service.residency.loaded) == {"b"}
        assert _answer(server) == first


def test_a_model_in_use_is_not_taken_away(serve: Any, tiny_model: Any) -> None:
    """With room for one, a request for another waits until the first has ended."""
    with serve(model_id=tiny_model(), models={"b": tiny_model("llama", seed=8)}) as server:
        _answer(server)
        with (
            server.client() as client,
            client.stream("POST", "/v1/chat/completions", json={**CHAT, "max_tokens": 300, "stream": True}) as reply,
        ):
            lines = reply.iter_lines()
            next(lines)
            assert _answer(server, model="b")
            assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_aliases(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), models={"b": tiny_model("llama", seed=8)}, aliases={"claude-*": "b"}) as server:
        assert _answer(server, model="claude-sonnet-9") == _answer(server, model="b")
        assert _answer(server, model="default_model") == _answer(server)
        assert server.post("/v1/chat/completions", {**CHAT, "model": "gpt"}).status_code == 404


def test_a_pattern_is_no_name_to_list(serve: Any, tiny_model: Any) -> None:
    """Both vendors' lists have names in full; each name leads to the model that answers it."""
    aliases = {"claude-*": "b", "gpt-?": "b", "*": "default_model", "claude-old": "default_model", "b[1]": "b"}
    with serve(model_id=tiny_model(), models={"b": tiny_model("llama", seed=8)}, aliases=aliases) as server:
        default = server.get("/v1/models").json()["data"][0]["id"]
        for headers in ({}, {"anthropic-version": "2023-06-01"}):
            listed = [m["id"] for m in server.get("/v1/models", headers=headers).json()["data"]]
            assert listed == [default, "claude-old", "b", "b[1]"]
        roots = {"claude-old": default, "claude-new": "b", "gpt-4": "b", "gpt-40": default, "b": "b", "b[1]": "b"}
        for name, root in roots.items():
            one = server.get(f"/v1/models/{name}").json()
            assert (one["id"], one["root"]) == (name, root)
        assert _answer(server, model="claude-new") == _answer(server, model="b") != _answer(server)


def test_adapters_share_their_base(serve: Any, tiny_model: Any, tmp_path: Path) -> None:
    """Each adapter answers as a model that was loaded with it, without a second copy of the weights."""
    model = tiny_model()
    folders = {f"style{n}": _adapter(tmp_path / f"a{n}", model, n) for n in range(3)}
    with serve(model_id=model, adapters=folders) as server:
        base = _answer(server)
        answers = {name: _answer(server, model=name) for name in folders}
        assert len({base, *answers.values()}) == 4
        assert _answer(server) == base
        loaded = server.service.residency.engines
        whole, own = loaded[0].engine.model, loaded[1].engine.model
        assert own.model.layers[0].mlp.up_proj.weight is whole.model.layers[0].mlp.up_proj.weight
    for name, folder in folders.items():
        with serve(model_id=model, adapter_path=folder) as server:
            assert _answer(server) == answers[name]


def test_an_adapter_of_another_model_is_refused(serve: Any, tiny_model: Any, tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "a", tiny_model(), 1)
    with serve(model_id=tiny_model("hybrid"), adapters={"style": folder}) as server:
        reply = server.post("/v1/chat/completions", {**CHAT, "model": "style"})
        assert reply.status_code == 400 and _answer(server)
        assert str(tmp_path) not in reply.text


def test_files_that_are_gone_are_the_operators_business(serve: Any, tiny_model: Any, tmp_path: Path) -> None:
    with serve(model_id=tiny_model(), models={"b": str(tmp_path / "gone")}, max_loaded_models=2) as server:
        reply = server.post("/v1/chat/completions", {**CHAT, "model": "b"})
        assert reply.status_code == 503 and str(tmp_path) not in reply.text
        assert _answer(server)


def test_a_prefix_is_reused_also_after_a_restart(serve: Any, tiny_model: Any, tmp_path: Path) -> None:
    body = {"prompt": "the quick brown fox jumps over the lazy dog " * 30, "max_tokens": 5, "temperature": 0}

    def ask(server: Any) -> tuple[str, int, int]:
        reply = server.post("/v1/completions", body).json()
        usage = reply["usage"]
        return (
            reply["choices"][0]["text"], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
        )  # fmt: skip

    settings = {"model_id": tiny_model(), "disk_prompt_cache_dir": str(tmp_path), "disk_prompt_cache_min_tokens": 256}
    with serve(**settings) as server:
        cold, tokens, cached = ask(server)
        assert cached == 0 and tokens > 600
        assert ask(server) == (cold, tokens, tokens - 1)
    with serve(**settings) as server:
        assert ask(server) == (cold, tokens, tokens // 256 * 256)
        assert server.service.status()["engines"][0]["reused_from_disk_tokens"] > 0


def test_keys_share_no_prefix(serve: Any, tiny_model: Any) -> None:
    body = {"prompt": "the quick brown fox jumps over the lazy dog " * 30, "max_tokens": 2}
    with serve(model_id=tiny_model(), api_keys=("one", "two")) as server:

        def cached(key: str) -> int:
            reply = server.post("/v1/completions", body, headers={"authorization": f"Bearer {key}"})
            return reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert cached("one") == 0 and cached("one") > 0
        assert cached("two") == 0 and cached("two") > 0


def test_memory_comes_back(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), model_ttl=0.1) as server:
        _answer(server)
        end = time.monotonic() + 5
        while server.service.residency.loaded and time.monotonic() < end:
            time.sleep(0.02)
        low = mx.get_active_memory()
        for _ in range(3):
            _answer(server)
            end = time.monotonic() + 5
            while server.service.residency.loaded and time.monotonic() < end:
                time.sleep(0.02)
        end = time.monotonic() + 5  # a model is gone from the list before its arrays are from memory
        while mx.get_active_memory() > low + 2**16 and time.monotonic() < end:
            time.sleep(0.02)
        assert mx.get_active_memory() <= low + 2**16


def test_the_context_that_applies(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), max_context_length=100) as server:
        reply = server.post("/v1/completions", {"prompt": list(range(2, 92)), "max_tokens": 50})
        assert reply.json()["usage"]["completion_tokens"] == 10
        assert server.post("/v1/completions", {"prompt": list(range(2, 102)), "max_tokens": 1}).status_code == 400
    with pytest.raises(Exception, match=r"has 4,096 positions"), serve(model_id=tiny_model(), max_context_length=5000):
        pass


def test_names(tmp_path: Path) -> None:
    catalog = Catalog(ServerSettings(model_id="org/model", models={"b": str(tmp_path)}, allow_download=True))
    assert catalog.find(None).id == catalog.find("default_model").id == "org/model"
    assert catalog.find("other/model").source.local is False
    assert catalog.find("b").source.target == str(tmp_path)
    with pytest.raises(ConfigError, match="no room"):
        Catalog(ServerSettings(model_id="org/model", models={"b": "x"}, pin=("b",)))
    with pytest.raises(ConfigError, match="aliases"):
        Catalog(ServerSettings(model_id="org/model", aliases={"a": "none"}))
    with pytest.raises(RequestError, match="must be given"):
        Catalog(ServerSettings(models={"b": "x"})).find(None)


def test_kv_bits_change_the_bytes_of_a_token(serve: Any, tiny_model: Any) -> None:
    sizes = {}
    for bits in (None, 8, 4):
        with serve(model_id=tiny_model(), kv_bits=bits, kv_group_size=32, quantized_kv_start=0) as server:
            job = server.call(server.service.open(_long()))
            for _ in range(500):
                engine = server.service.status()["engines"][0]
                if engine["running"]:
                    break
                time.sleep(0.005)
            sizes[bits] = engine["reserved_bytes"]
            server.call(job.cancel())
    assert sizes[4] < sizes[8] < sizes[None]


def _long() -> Any:
    from mlx_lm.server.work import Work

    return Work(prompt=tuple(range(2, 302)), max_tokens=3000)


def test_what_load_gives_is_what_is_served(serve: Any, tiny_model: Any) -> None:
    model, tokenizer = load(tiny_model())
    text = generate(model, tokenizer, "the quick brown", max_tokens=20)
    with serve(model_id=tiny_model()) as server:
        reply = server.post("/v1/completions", {"prompt": "the quick brown", "max_tokens": 20, "temperature": 0})
    assert reply.json()["choices"][0]["text"] == text


@pytest.mark.parametrize("how", ["ngram", "auto", "draft"])
def test_guessing_ahead_changes_no_answer(serve: Any, tiny_model: Any, how: str) -> None:
    settings = {"draft_model": tiny_model("llama", seed=8)} if how == "draft" else {"speculation": how}
    body = {"prompt": "the quick brown fox " * 80, "max_tokens": 60, "temperature": 0}
    seeded = {**body, "temperature": 1, "seed": 5}
    with serve(model_id=tiny_model()) as server:
        plain = [server.post("/v1/completions", one).json()["choices"][0]["text"] for one in (body, seeded)]
    with serve(model_id=tiny_model(), **settings) as server:
        assert [server.post("/v1/completions", one).json()["choices"][0]["text"] for one in (body, seeded)] == plain
        assert server.service.status()["engines"][0]["drafted_tokens"] > 0


def test_a_head_that_is_not_there_is_refused(serve: Any, tiny_model: Any) -> None:
    with pytest.raises(Exception, match="no next-token head"), serve(model_id=tiny_model(), speculation="mtp"):
        pass
