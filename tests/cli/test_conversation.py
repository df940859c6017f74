"""Conversations reuse what was computed, and answer as a fresh start would; for every kind of state."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_lm import load
from mlx_lm.cli.conversation import Conversation
from mlx_lm.cli.options import Sampling
from mlx_lm.cli.prompt import ChatFormat
from mlx_lm.cli.turns import Turns, common_prefix
from mlx_lm.engine import kv_options, new_states
from mlx_lm.errors import ContextLengthError, RequestError
from mlx_lm.sampling import greedy_sampler, make_logits_processors

KINDS = ["llama", "window", "hybrid"]
Start = Callable[..., Conversation]


@pytest.fixture
def start(make_model: Callable[..., str]) -> Start:
    """`start(kind, draft=False, system=None, **kv)`: a new conversation."""

    def begin(
        kind: str = "llama", *, draft: bool = False, system: str | None = None, processors: Any = (), **kv: Any
    ) -> Conversation:
        model, tokenizer = load(make_model(kind))
        models = [model, load(make_model(kind, seed=8))[0]] if draft else [model]
        turns = Turns(lambda: [new_states(m, kv_options(**kv)) for m in models])
        settings = {"max_tokens": 24, "prefill_step_size": 16, **kv}
        chat = ChatFormat.choose(tokenizer)
        return Conversation(models, chat, Sampling(greedy_sampler, list(processors)), settings, turns, system=system)

    return begin


def say(conversation: Conversation, text: str) -> tuple[str, int]:
    """(answer, tokens reused)."""
    conversation.add_user(text)
    parts: list[str] = []
    answer = conversation.answer(parts.append)
    assert "".join(parts) == answer.text == conversation.messages[-1]["content"]
    return answer.text, answer.reused


def fresh_answer(start: Start, like: Conversation, kind: str, **how: Any) -> str:
    """What a new conversation with the same messages, all but the last answer, answers."""
    other = start(kind, system=like.system, **how)
    other.messages = [dict(m) for m in like.messages[:-1]]
    answer = other.answer(lambda _: None)
    assert answer.reused == 0
    return answer.text


@pytest.mark.parametrize("kind", KINDS)
def test_later_turns_reuse_and_equal_a_fresh_start(start: Start, kind: str) -> None:
    conversation = start(kind, system="The model answers.")
    for turn, text in enumerate(["the fox", "numbers 0 1 2", "lines and tabs"]):
        answer, reused = say(conversation, text)
        assert answer == fresh_answer(start, conversation, kind)
        assert (reused > 10) == (turn > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_edits_of_the_history(start: Start, kind: str) -> None:
    conversation = start(kind)
    say(conversation, "the fox")
    second, _ = say(conversation, "the lazy dog")
    assert conversation.undo() == "the lazy dog"
    again, reused = say(conversation, "the lazy dog")
    assert again == second and reused > 10
    conversation.undo()
    other, _ = say(conversation, "every question of the user")
    assert other == fresh_answer(start, conversation, kind)
    conversation.system = "A role."
    conversation.undo()
    changed, reused = say(conversation, "numbers")
    assert changed == fresh_answer(start, conversation, kind) and reused < 10
    conversation.reset()
    assert conversation.messages == [] and conversation.system == "A role." and conversation.undo() is None
    text, _ = say(conversation, "the fox")
    assert text == fresh_answer(start, conversation, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_answer_stays(start: Start, kind: str) -> None:
    conversation = start(kind)
    conversation.add_user("the fox")
    parts: list[str] = []
    answer = conversation.answer(parts.append, stopped=lambda: len(parts) >= 5)
    assert answer.interrupted and answer.last.generation_tokens == 5
    assert conversation.messages[-1] == {"role": "assistant", "content": "".join(parts)}
    text, _ = say(conversation, "and then")
    assert text == fresh_answer(start, conversation, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_inside_the_prompt(start: Start, kind: str) -> None:
    conversation = start(kind)
    conversation.add_user("the quick brown fox " * 8)
    done: list[int] = []
    answer = conversation.answer(lambda _: None, stopped=lambda: len(done) >= 3, progress=lambda n, _: done.append(n))
    assert answer.interrupted and answer.last is None and conversation.messages[-1]["role"] == "user"
    again = conversation.answer(lambda _: None)
    assert again.text == fresh_answer(start, conversation, kind)


def test_draft_model_and_packed_states(start: Start) -> None:
    plain, drafted = start(), start(draft=True)
    for text in ("the fox", "numbers 0 1 2", "lines"):
        answer, reused = say(drafted, text)
        assert answer == say(plain, text)[0]
    assert reused > 10
    packed = start(kv_bits=8, kv_group_size=32, quantized_kv_start=0)
    say(packed, "the fox")
    assert say(packed, "numbers")[1] > 10
    limited = start(max_kv_size=32)
    for text in ("the fox", "numbers 0 1 2", "lines"):
        assert say(limited, text)[0]


def test_penalties_see_what_is_cached(start: Start) -> None:
    processors = make_logits_processors(presence_penalty=3.0, presence_context_size=0)
    conversation = start(processors=processors)
    for text in ("the fox", "numbers 0 1 2"):
        answer, _ = say(conversation, text)
        assert answer == fresh_answer(start, conversation, "llama", processors=processors)


def test_too_long_is_refused_and_leaves_the_cache(start: Start) -> None:
    conversation = start("short")
    conversation._settings["max_tokens"] = 4
    say(conversation, "fox")
    conversation.add_user("0 1 2 " * 40)
    with pytest.raises(ContextLengthError, match="48"):
        conversation.answer(lambda _: None)
    conversation.undo()
    assert say(conversation, "dog")[1] > 5


def test_save_and_load(start: Start, tmp_path: Path) -> None:
    conversation = start(system="A role.")
    say(conversation, "the fox")
    file = tmp_path / "talk.json"
    conversation.save(str(file))
    assert [p.name for p in tmp_path.iterdir()] == ["talk.json"]
    other = start()
    other.load(str(file))
    assert (other.system, other.messages) == (conversation.system, conversation.messages)
    for content in ("{", "[]", '{"system": 3, "messages": []}', '{"system": null, "messages": [{"role": "user"}]}'):
        file.write_text(content)
        with pytest.raises(RequestError, match=r"talk\.json"):
            other.load(str(file))
    assert other.messages == conversation.messages
    for action in (other.load, other.save):
        with pytest.raises(RequestError, match="nowhere"):
            action(str(tmp_path / "nowhere" / "x.json"))
    assert json.loads(content)["system"] is None


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2], [1, 2]) == 2
