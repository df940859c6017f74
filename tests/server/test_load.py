"""Many clients at once, clients that hang up, stages that fail: nobody else notices, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import threading
from typing import Any

import httpx
import pytest

from mlx_lm.errors import MLXLMError
from mlx_lm.server.work import Text, Work

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "small", "model", "answers", "every"]


def _prompt(chance: random.Random, longest: int = 60) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(chance.randrange(3, longest)))


async def _client(url: str, works: list[tuple[str, int]], solo: dict[Any, str], chance: random.Random) -> int:
    """Asks for each work; some answers are left in the middle. Returns how many were read to the end."""
    whole = 0
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        for prompt, count in works:
            body = {"prompt": prompt, "max_tokens": count, "temperature": 0, "stream": chance.random() < 0.6}
            leave = chance.random() < 0.3
            if not body["stream"]:
                try:
                    timeout = httpx.Timeout(120, read=0.02) if leave else None
                    reply = await client.post("/v1/completions", json=body, timeout=timeout or 120)
                except httpx.ReadTimeout:
                    continue
                assert reply.status_code == 200, reply.text[:300]
                assert reply.json()["choices"][0]["text"] == solo[prompt, count]
                whole += 1
                continue
            text, lines = "", 0
            async with client.stream("POST", "/v1/completions", json=body) as reply:
                assert reply.status_code == 200
                async for line in reply.aiter_lines():
                    lines += 1
                    if leave and lines > 5:
                        break
                    if line.startswith("data: {"):
                        choices = json.loads(line[6:])["choices"]
                        text += choices[0]["text"] if choices else ""
                else:
                    assert text == solo[prompt, count]
                    whole += 1
    return whole


@pytest.mark.parametrize("kind", ["llama", "window", "hybrid"])
def test_answers_under_load_equal_solo_answers(serve: Any, tiny_model: Any, kind: str) -> None:
    """8 clients, 64 requests, random hang-ups: every whole greedy answer is the one that it is alone."""
    chance = random.Random(5)
    works = [(_prompt(chance), chance.randrange(1, 40)) for _ in range(64)]
    with serve(model_id=tiny_model(kind), max_batch_size=8) as server:
        solo: dict[Any, str] = {}
        for prompt, count in works:
            body = {"prompt": prompt, "max_tokens": count, "temperature": 0}
            solo[prompt, count] = server.post("/v1/completions", body).json()["choices"][0]["text"]

        async def load() -> list[int]:
            parts = [works[i::8] for i in range(8)]
            tasks = [_client(server.url, part, solo, random.Random(i)) for i, part in enumerate(parts)]
            return await asyncio.gather(*tasks)

        whole = sum(asyncio.run(load()))
        assert whole >= 32
        status = server.idle()
        assert all(e["reserved_bytes"] == 0 and e["failed"] == 0 for e in status["engines"])


def _resources() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0, threading.active_count()


def test_a_thousand_aborts_leave_nothing(serve: Any, tiny_model: Any) -> None:
    """Jobs left while they wait, in their prompt, at the first token and later; streams over HTTP among them."""
    chance = random.Random(11)
    with serve(model_id=tiny_model(), max_batch_size=4, max_queue=4000) as server:

        async def one(n: int) -> None:
            prompt = tuple(chance.randrange(2, 300) for _ in range(chance.randrange(2, 600)))
            work = Work(prompt=prompt, max_tokens=200)
            if n % 4 == 0:  # left while it is being opened
                task = asyncio.create_task(server.service.open(work))
                await asyncio.sleep(chance.random() * 0.01)
                task.cancel()
                try:
                    job = await task
                except asyncio.CancelledError:
                    return
                await job.cancel()
                return
            async with await server.service.open(work) as job:
                if n % 4 == 1:
                    return
                count = 0
                async for event in job:
                    count += isinstance(event, Text)
                    if count > n % 7:
                        break

        async def all_of_them() -> None:
            for start in range(0, 1000, 50):
                await asyncio.gather(*(one(n) for n in range(start, start + 50)))

        server.call(asyncio.wait_for(_as(all_of_them), 120))
        server.idle()
        gc.collect()
        before = _resources()
        status = server.idle()
        engine = status["engines"][0]
        assert engine["reserved_bytes"] == 0 and engine["state_bytes"] == 0 and engine["failed"] == 0
        assert not server.service.thread._tickets and not server.service.thread._handlers
        assert not server.service.jobs and server.service.residency._residents[engine["model"]].users == 0
        assert _resources()[0] <= before[0] + 4
        body = {"prompt": "the quick", "max_tokens": 3}
        assert server.post("/v1/completions", body).status_code == 200


async def _as(function: Any) -> None:
    await function()


@pytest.mark.parametrize("stage", ["prefill", "decode", "sample", "detokenize", "parse"])
def test_a_failing_stage_fails_alone(serve: Any, tiny_model: Any, stage: str) -> None:
    """One request fails in a batch; the others give what they give alone."""

    def fault(work: Work, at: str) -> None:
        if at == stage and work.max_tokens == 13:
            raise RuntimeError("a secret of the server: /home/operator")

    with serve(model_id=tiny_model(), fault=fault) as server:
        chat = {"messages": [{"role": "user", "content": "the quick brown fox"}], "temperature": 0}
        alone = server.post("/v1/chat/completions", {**chat, "max_tokens": 12}).json()["choices"][0]["message"]
        replies: dict[int, httpx.Response] = {}

        def ask(n: int) -> None:
            replies[n] = server.post("/v1/chat/completions", {**chat, "max_tokens": 13 if n == 2 else 12})

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies[2].status_code == 500 and "secret" not in replies[2].text
        for n in (0, 1, 3, 4):
            assert replies[n].status_code == 200
            assert replies[n].json()["choices"][0]["message"]["content"] == alone["content"]
        server.idle()
        with (
            server.client() as client,
            client.stream("POST", "/v1/chat/completions", json={**chat, "max_tokens": 13, "stream": True}) as reply,
        ):
            text = reply.read().decode()
        if reply.status_code == 200:
            assert '"error"' in text and "secret" not in text
        assert server.post("/v1/chat/completions", {**chat, "max_tokens": 12}).status_code == 200


def test_a_full_queue_is_refused_at_once(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), max_batch_size=1, max_queue=1) as server:
        slow = Work(prompt="the quick", max_tokens=4000)

        async def fill() -> list[Any]:
            jobs = [await server.service.open(slow)]
            jobs.append(await server.service.open(slow))
            return jobs

        jobs = server.call(fill())
        reply = server.post("/v1/completions", {"prompt": "fox", "max_tokens": 2})
        assert reply.status_code == 503 and int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["code"] == "overloaded"
        refused = server.post("/v1/messages", {"max_tokens": 3, "messages": [{"role": "user", "content": "fox"}]})
        assert refused.status_code == 503 and refused.json()["error"]["type"] == "overloaded_error"
        for job in jobs:
            server.call(job.cancel())
        server.idle()
        assert server.post("/v1/completions", {"prompt": "fox", "max_tokens": 2}).status_code == 200


def test_deadlines_end_requests(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model(), request_timeout=0.15) as server:
        reply = server.post("/v1/completions", {"prompt": "fox", "max_tokens": 4000})
        assert reply.status_code == 504
        assert server.post("/v1/completions", {"prompt": "fox", "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(serve: Any, tiny_model: Any, stream: bool) -> None:
    with serve(model_id=tiny_model()) as server:
        body = {"prompt": "fox", "max_tokens": 4000, "stream": stream}
        if stream:
            with server.client() as client, client.stream("POST", "/v1/completions", json=body) as reply:
                assert next(reply.iter_lines()).startswith("data: ")
        else:
            with server.client() as client, pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=body, timeout=httpx.Timeout(10, read=0.1))
        engine = server.idle()["engines"][0]
        assert engine["state_bytes"] == 0 and engine["cancelled"] == 1
        assert server.get("/metrics").text.count('finished_reason="abort"} 1') == 1


def test_work_after_the_drain_began_is_refused(serve: Any, tiny_model: Any) -> None:
    with serve(model_id=tiny_model()) as server:
        server.service.draining = True
        reply = server.post("/v1/completions", {"prompt": "fox", "max_tokens": 2})
        assert reply.status_code == 503
        assert server.get("/ready").json() == {"status": "draining"}
        with pytest.raises(MLXLMError):
            server.call(server.service.open(Work(prompt="a")))
