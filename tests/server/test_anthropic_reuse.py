"""The second turn of a conversation as Claude Code has it computes what is new, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_folders import write_model

# In the manner of Qwen2.5's: tools after the system text, calls and results in tags.
TEMPLATE = """<|im_start|>system
{{ messages[0].content }}{% for tool in tools or [] %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% for m in messages[1:] %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
MARK = {"cache_control": {"type": "ephemeral"}}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def request(turn: int, words: int, answer: str = "") -> dict[str, Any]:
    """The body of turn 1 or 2: what it has in common with the other is never in the same form."""
    long = " ".join(f"rule {i}" for i in range(words))
    environment = "# Environment\nThe folder is /work."
    tools = [
        {"name": name, "description": f"{name} does it.", "input_schema": {"type": "object", "properties": {}}}
        for name in ("Bash", "Read", "Write")
    ]
    system = [
        text(f"x-anthropic-billing-header: cc_version=2.1.329.{turn}a8; cc_entrypoint=cli; cch={turn}f3e;"),
        text("You are an agent.", **(MARK if turn == 1 else {})),
        text(f"Rules: {long}", **(MARK if turn == 2 else {})),
        text(f"<total_tokens>{100_000 - turn} tokens left</total_tokens>"),
    ]
    messages: list[Any] = [
        {"role": "user", "content": [text("Run it.", **MARK)] if turn == 1 else "Run it."},
        {"role": "system", "content": [text(environment, **MARK)] if turn == 1 else environment},
    ]
    if turn == 2:
        call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a b", "is_error": False, **MARK}
        messages += [
            {"role": "assistant", "content": [text(answer), call]},
            {"role": "user", "content": [result]},
            {"role": "system", "content": "<total_tokens>99000 tokens left</total_tokens>"},
        ]
    return {"model": "m", "max_tokens": 8, "system": system, "tools": tools, "messages": messages, "temperature": 0}


@pytest.mark.parametrize("kind", ["latent", "llama", "hybrid"])
def test_turn_two_reuses_95_percent(serve: Any, tmp_path: Path, kind: str) -> None:
    words = 1300
    folder = write_model(tmp_path / "model", kind)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 163_840}))
    with serve(model_id=str(folder), chat_template=TEMPLATE, aliases={"m": "default_model"}) as server:
        first = server.post("/v1/messages?beta=true", request(1, words)).json()
        server.idle()
        second = server.post("/v1/messages?beta=true", request(2, words, first["content"][0]["text"])).json()
        again = server.post("/v1/messages?beta=true", {**request(2, words, "x"), "stream": True}).text
    assert first["usage"]["cache_read_input_tokens"] == 0
    counts = second["usage"]
    prompt = counts["input_tokens"] + counts["cache_read_input_tokens"]
    assert prompt > first["usage"]["input_tokens"] > 8_000
    assert counts["cache_read_input_tokens"] >= 0.95 * prompt, counts
    # The counts of a stream's last event are those of the whole answer, not 0.
    last = json.loads(again.split("event: message_delta\ndata: ")[1].split("\n")[0])["usage"]
    assert last["cache_read_input_tokens"] >= 0.9 * prompt and last["output_tokens"] == 8
