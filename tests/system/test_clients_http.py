"""Other people's clients, unmodified, over HTTP: lm-eval, litellm, LangChain and llm.

Each is run by a Python that has it: this one, or one of the virtual environments in `MLX_LM_CLIENT_ENVS` (a list of
folders, as in PATH). One that is nowhere installed is skipped.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, served_tiny

ENVIRONMENTS = [Path(p) for p in os.environ.get("MLX_LM_CLIENT_ENVS", "").split(os.pathsep) if p]

LM_EVAL = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
url, folder, pairs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
lm = LocalCompletionsAPI(base_url=url + "/v1/completions", model="tiny", tokenizer_backend="huggingface",
                         tokenizer=folder, batch_size=3, max_length=256, max_retries=1)
asked = [Instance("loglikelihood", {}, tuple(pair), i, ("t", i, 1)) for i, pair in enumerate(pairs)]
scores = lm.loglikelihood(asked, disable_tqdm=True)
prompts = [Instance("generate_until", {}, (pair[0], {"until": ["\\n"], "max_gen_toks": 5}), i, ("t", i, 1))
           for i, pair in enumerate(pairs)]
print("RESULT " + json.dumps({"scores": scores, "texts": lm.generate_until(prompts, disable_tqdm=True)}))
"""
LITELLM = """
import json, sys
import litellm
options = dict(model="openai/tiny", api_base=sys.argv[1] + "/v1", api_key="none", temperature=0, max_tokens=6,
               messages=[{"role": "user", "content": "Hello"}], num_retries=0)
whole = litellm.completion(**options)
parts = [c.choices[0].delta.content or "" for c in litellm.completion(**options, stream=True) if c.choices]
try:
    litellm.completion(**{**options, "model": "openai/none"})
except litellm.NotFoundError as error:
    missing = True
print("RESULT " + json.dumps({"text": whole.choices[0].message.content, "streamed": "".join(parts),
                              "tokens": whole.usage.completion_tokens, "missing": missing}))
"""
LANGCHAIN = """
import json, sys
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(model="tiny", base_url=sys.argv[1] + "/v1", api_key="none", temperature=0, max_tokens=6,
                  max_retries=0)
whole = chat.invoke("Hello")
parts = [chunk.content for chunk in chat.stream("Hello")]
batch = [message.content for message in chat.batch(["Hello", "A model"])]
print("RESULT " + json.dumps({"text": whole.content, "streamed": "".join(parts), "batch": batch,
                              "tokens": whole.usage_metadata["output_tokens"]}))
"""
LLM = """
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["LLM_USER_PATH"])
(folder / "extra-openai-models.yaml").write_text(json.dumps(
    [{"model_id": "local", "model_name": "tiny", "api_base": sys.argv[1] + "/v1", "api_key_name": "none"}]))
import llm
model = llm.get_model("local")
whole = model.prompt("Hello", stream=False, key="none", temperature=0, max_tokens=6)
streamed = model.prompt("Hello", stream=True, key="none", temperature=0, max_tokens=6)
print("RESULT " + json.dumps({"text": whole.text(), "streamed": "".join(streamed)}))
"""


def python_with(package: str) -> str:
    """A Python that can import the package; the test is skipped where there is none."""
    if importlib.util.find_spec(package) is not None:
        return sys.executable
    for environment in ENVIRONMENTS:
        if any(environment.glob(f"lib/python3*/site-packages/{package}")):
            return str(environment / "bin" / "python")
    pytest.skip(f"{package} is not installed, neither here nor in MLX_LM_CLIENT_ENVS")


def run(package: str, script: str, *arguments: str, folder: Path) -> dict[str, Any]:
    """What the script prints as its result."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LLM_USER_PATH": str(folder),
        "NO_PROXY": "*",
        "OPENAI_API_KEY": "none",
    }
    environment.pop("PYTHONPATH", None)
    command = [python_with(package), "-c", script, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert done.returncode == 0 and lines, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served_tiny(folder) as running:
        yield running


def test_lm_eval_scores_as_the_model_does(folder: Path, request: pytest.FixtureRequest) -> None:
    python_with("lm_eval")
    server = request.getfixturevalue("server")
    pairs = [("The quick brown", " fox jumps"), ("A model", " answers"), ("Numbers 0 1 2", " 3 4")]
    got = run("lm_eval", LM_EVAL, server.url, str(folder / "tiny"), json.dumps(pairs), folder=folder)
    assert len(got["texts"]) == 3 and all(isinstance(text, str) and "\n" not in text for text in got["texts"])
    for (score, greedy), pair in zip(got["scores"], pairs, strict=True):
        expected, is_greedy = _score(folder / "tiny", *pair)
        assert math.isclose(score, expected, abs_tol=1e-3) and greedy == is_greedy


def _score(model_folder: Path, context: str, continuation: str) -> tuple[float, bool]:
    import mlx.core as mx

    import mlx_lm

    model, tokenizer = mlx_lm.load(str(model_folder))[:2]
    start, ids = len(tokenizer.encode(context)), tokenizer.encode(context + continuation)
    logits = model(mx.array([ids]))[0].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    best = mx.argmax(logits, axis=-1).tolist()
    places = range(start, len(ids))
    total = sum(logprobs[i - 1, ids[i]].item() for i in places)
    return total, all(best[i - 1] == ids[i] for i in places)


def test_litellm(folder: Path, request: pytest.FixtureRequest) -> None:
    python_with("litellm")
    got = run("litellm", LITELLM, request.getfixturevalue("server").url, folder=folder)
    assert got["text"] and got["text"] == got["streamed"] and got["tokens"] <= 6 and got["missing"]


def test_langchain(folder: Path, request: pytest.FixtureRequest) -> None:
    python_with("langchain_openai")
    got = run("langchain_openai", LANGCHAIN, request.getfixturevalue("server").url, folder=folder)
    assert got["text"] and got["text"] == got["streamed"] == got["batch"][0] and got["tokens"] <= 6


def test_llm(folder: Path, request: pytest.FixtureRequest) -> None:
    python_with("llm")
    got = run("llm", LLM, request.getfixturevalue("server").url, folder=folder)
    assert got["text"] and got["text"] == got["streamed"]
