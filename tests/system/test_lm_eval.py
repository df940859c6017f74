"""`mlx_lm.evaluate` runs tasks of lm-eval, whose numbers are those of a plain computation.

Needs the peer package, and skips without it: pip install 'mlx-lm[evaluate]' (lm-eval 0.4.9 or newer; no torch needed).
The tasks here are local, so that no data set is fetched.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

pytest.importorskip("lm_eval", reason="pip install 'mlx-lm[evaluate]'")

import lm_eval

from mlx_lm import generate, load
from mlx_lm.cli.evaluate import main
from mlx_lm.evaluate.harness import HarnessModel, Settings

pytestmark = [pytest.mark.real_model("smollm2"), pytest.mark.filterwarnings("default")]

QUESTIONS = [
    ("The capital of France is", ["Paris", "a kind of bread", "London"], 0),
    ("Two plus two makes", ["a blue whale", "four"], 1),
    ("Water is made of hydrogen and", ["oxygen", "granite", "Tuesday"], 0),
    ("The opposite of hot is", ["seven", "cold"], 1),
]
COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
fewshot_split: test
metadata: {{version: 1.0}}
"""
TASKS = {
    "local_choice": """
task: local_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_mutual_info}]
""",
    "local_rolling": """
task: local_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[answer]}}."
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "local_answers": """
task: local_answers
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: [".", "\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match, ignore_case: true, ignore_punctuation: true}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps({"question": q, "choices": c, "answer": a}) for q, c, a in QUESTIONS]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text + COMMON.format(file=folder / "questions.jsonl"))
    return folder


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load("smollm2")[:2]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def plain(model: Any, tokens: list[int], start: int) -> tuple[float, bool]:
    """The log-likelihood of tokens[start:], in one pass without states."""
    logits = model(mx.array([tokens[:-1]]))[0].astype(mx.float32)[start - 1 :]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, mx.array(tokens[start:])[:, None], axis=-1)
    return float(chosen.sum().item()), mx.argmax(logits, axis=-1).tolist() == tokens[start:]


class Item:
    def __init__(self, *args: Any) -> None:
        self.args = args


def test_likelihoods_are_those_of_a_plain_computation(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    harness = HarnessModel(model, tokenizer, "smollm2", Settings(batch_size=3))
    items = [Item(q, " " + c) for q, choices, _ in QUESTIONS for c in choices] + [Item("", "Once"), Item("a ", "b")]
    found = harness.loglikelihood(items, disable_tqdm=True)
    for item, (logprob, greedy) in zip(items, found, strict=True):
        context, continuation = item.args
        space = context[len(context.rstrip()) :]
        before = tokenizer.encode(context.rstrip()) or [harness.prefix_token_id]
        whole = tokenizer.encode(context.rstrip() + space + continuation)
        whole = whole if context else [harness.prefix_token_id, *whole]
        expected = plain(model, whole, len(before))
        assert logprob == pytest.approx(expected[0], abs=0.02) and greedy == expected[1]


def test_rolling_likelihood(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    harness = HarnessModel(model, tokenizer, "smollm2")
    text = "It was a bright cold day in April, and the clocks were striking thirteen."
    tokens = [harness.prefix_token_id, *tokenizer.encode(text)]
    whole = harness.loglikelihood_rolling([Item(text), Item("Hi")])
    assert whole[0] == pytest.approx(plain(model, tokens, 1)[0], abs=0.05)
    harness._limit = 8  # windows of 8 tokens
    cut = harness.loglikelihood_rolling([Item(text)])[0]
    expected = 0.0
    for begin in range(0, len(tokens) - 1, 8):
        end = min(begin + 8, len(tokens) - 1)
        first = max(end - 8, 0)
        expected += plain(model, tokens[first : end + 1], begin - first + 1)[0]
    assert cut == pytest.approx(expected, abs=0.05) and cut < whole[0]


def test_answers(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    harness = HarnessModel(model, tokenizer, "smollm2", Settings(batch_size=2))
    kwargs: dict[str, Any] = {"until": ["."], "max_gen_toks": 12, "do_sample": False}
    items = [Item(q, kwargs) for q, _, _ in QUESTIONS] + [Item("Count: 1,", {"until": "5", "max_gen_toks": 20})]
    found = harness.generate_until(items)
    for item, text in zip(items, found, strict=True):
        context, own = item.args
        expected = generate(model, tokenizer, context, max_tokens=own["max_gen_toks"], stop=own["until"])
        assert text == expected
    sampled = [Item(QUESTIONS[0][0], {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0})] * 3
    assert len(set(harness.generate_until(sampled))) > 1
    assert harness.generate_until(sampled) == harness.generate_until(sampled)


def run(tasks: Path, out: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    status = main(["--model", "smollm2", "--include-path", str(tasks), "--output-dir", str(out), "--json", *words])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out.strip().splitlines()[-1])


def test_the_command(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(tasks, tmp_path, capsys, "--tasks", *TASKS, "--no-apply-chat-template")
    assert results["local_choice"]["acc,none"] >= 0.75
    assert 1 < results["local_rolling"]["word_perplexity,none"] < 1000
    assert 0 <= results["local_answers"]["exact_match,none"] <= 1
    version = lm_eval.__version__
    file = tmp_path / f"eval_smollm2_{version}_local_choice_local_rolling_local_answers"
    assert json.loads(file.read_text()) == results


def test_shots_chat_template_and_limit(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tasks", "local_answers", "local_choice", "--num-shots", "2", "--limit", "2", "--batch-size", "2"]
    words += ["--fewshot-as-multiturn", "--apply-chat-template", "--max-tokens", "4", "--temp", "0.5", "--top-k", "5"]
    results = run(tasks, tmp_path, capsys, *words)
    assert (
        results["local_choice"].keys()
        and (tmp_path / f"eval_smollm2_{lm_eval.__version__}_02_local_answers_local_choice").exists()
    )


def test_mistakes_are_named(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(
        ["--model", "smollm2", "--tasks", "local_choise", "--include-path", str(tasks), "--output-dir", str(tmp_path)]
    )
    assert status == 1 and "local_choise" in capsys.readouterr().err
