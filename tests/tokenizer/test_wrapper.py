"""TokenizerWrapper and FastTokenizer keep the interface that dependants of mlx-lm use."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_lm.errors import ChatTemplateError, TokenizerError
from mlx_lm.tokenizer import FastTokenizer, NaiveStreamingDetokenizer, TokenizerWrapper, load_tokenizer

USER = [{"role": "user", "content": "the dog"}]


def test_folder(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<pad>", None)
    assert tokenizer.bos_token_id is None
    assert tokenizer.eos_token_ids == {7, tokenizer.eos_token_id}
    assert tokenizer.all_special_tokens == ["<|im_end|>", "<pad>", "<|im_start|>"]
    assert len(tokenizer) == len(tokenizer.get_vocab()) >= tokenizer.vocab_size
    assert tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, 10**6]) == ["<|im_end|>", None]
    assert tokenizer.convert_tokens_to_ids(["<pad>", "no such"]) == [tokenizer.pad_token_id, None]
    assert tokenizer.convert_tokens_to_string(["Ġthe"]) == " the"


def test_calls_and_batches(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    one = tokenizer("the dog")
    assert one.input_ids == one["input_ids"] == tokenizer.encode("the dog")
    assert one.attention_mask == [1] * len(one.input_ids)
    batch = tokenizer(["the", "the dog sleeps"], padding=True)
    assert batch.input_ids[0][0] == tokenizer.pad_token_id and batch.attention_mask[0][0] == 0
    assert len({len(row) for row in batch["input_ids"]}) == 1
    arrays = tokenizer(["a", "b"], return_tensors="np")
    assert arrays.input_ids.shape == (2, 1)
    assert tokenizer.batch_decode([[65], np.array([66])]) == [tokenizer.decode(65), tokenizer.decode([66])]
    with pytest.raises(TokenizerError, match="transformers"):
        tokenizer("a", return_tensors="pt")
    tokenizer.pad_token = None
    with pytest.raises(TokenizerError, match="padding token"):
        tokenizer(["a", "aaaa"], padding=True)


def test_special_tokens_in_text_and_in_decode(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("a<|im_end|>b")
    assert tokenizer.eos_token_id in ids and len(ids) == 3
    assert tokenizer.decode(ids) == "a<|im_end|>b"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


def test_nothing_is_cut_unless_asked(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = "0 1 2 3 4 5 6 7 8 9 " * 500
    assert tokenizer.model_max_length == 16
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer(text).input_ids) > 1000
    full = tokenizer.encode(text)
    assert tokenizer.encode(text, truncation=True, max_length=5) == full[:5]
    assert tokenizer.encode(text, truncation=True) == full[:16]
    left = load_tokenizer(folder, tokenizer_config={"truncation_side": "left", "model_max_length": 100_000})
    assert left.model_max_length == 100_000
    assert left.encode(text, truncation=True, max_length=5) == full[-5:]


def test_attributes_are_forwarded_and_set(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token_id = tokenizer.eos_token_id
    assert tokenizer.pad_token == "<|im_end|>"
    tokenizer.padding_side = "right"
    assert tokenizer._inner.padding_side == "right"
    tokenizer.eos_token_ids = 3
    assert tokenizer.eos_token_ids == {3}
    tokenizer.add_eos_token("<pad>")
    tokenizer.add_eos_token("9")
    assert tokenizer.eos_token_ids == {3, 9, tokenizer.convert_tokens_to_ids("<pad>")}
    with pytest.raises(TokenizerError, match="not one token"):
        tokenizer.add_eos_token("the dog sleeps well")
    with pytest.raises(AttributeError):
        tokenizer.no_such_attribute  # noqa: B018
    with pytest.raises(TokenizerError, match="no id"):
        tokenizer.pad_token_id = 10**6


def test_chat(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    text = tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n<think>"
    plain = tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert plain + "<think>" == text
    ids = tokenizer.apply_chat_template(USER, add_generation_prompt=True)
    assert isinstance(ids, list) and tokenizer.decode(ids) == text
    assert tokenizer.apply_chat_template([USER, USER], add_generation_prompt=True) == [ids, ids]
    assert tokenizer.has_chat_template and "im_start" in tokenizer.get_chat_template()
    with pytest.raises(ChatTemplateError, match="return_dict"):
        tokenizer.apply_chat_template(USER, return_dict=True)
    tokenizer.chat_template = None
    assert not tokenizer.has_chat_template
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.get_chat_template()
    assert tokenizer.apply_chat_template(USER, chat_template="{{ eos_token }}", tokenize=False) == "<|im_end|>"


def test_named_templates(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = {"default": "d", "tool_use": "t"}
    assert tokenizer.apply_chat_template(USER, tokenize=False) == "d"
    assert tokenizer.apply_chat_template(USER, tools=[{"type": "function"}], tokenize=False) == "t"
    assert tokenizer.apply_chat_template(USER, chat_template="tool_use", tokenize=False) == "t"


def test_thinking_variable_is_the_templates(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "{% if thinking is defined and thinking %}on{% else %}off{% endif %}"
    assert tokenizer.apply_chat_template(USER, tokenize=False) == "on"
    assert tokenizer.apply_chat_template(USER, tokenize=False, thinking=False) == "off"


def test_markers(folder: Path, byte_level: Any) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.has_thinking and (tokenizer.think_start, tokenizer.think_end) == ("<think>", "</think>")
    assert tokenizer.think_start_tokens == (tokenizer.think_start_id,)
    assert tokenizer.think_end_id == tokenizer.convert_tokens_to_ids("</think>")
    assert not tokenizer.has_tool_calling and tokenizer.tool_parser is None
    tokenizer.chat_template = "<tool_call>{}</tool_call>"
    assert (tokenizer.tool_call_start, tokenizer.tool_call_end) == ("<tool_call>", "</tool_call>")
    assert tokenizer.tool_call_start_tokens == tuple(tokenizer.encode("<tool_call>"))
    given = TokenizerWrapper(FastTokenizer(byte_level), tool_call_start="[[", tool_call_end="]]")
    assert given.has_tool_calling and given.tool_call_end == "]]"


def _with_tokens(*tokens: str) -> FastTokenizer:
    from tokenizers import Tokenizer, models

    return FastTokenizer(Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [])))


@pytest.mark.parametrize(
    ("tokens", "pair"),
    [
        (("<longcat_think>", "</longcat_think>"), ("<longcat_think>", "</longcat_think>")),
        (("[THINK]", "[/THINK]"), ("[THINK]", "[/THINK]")),
        (("<|channel>", "<channel|>"), ("<|channel>thought", "<channel|>")),
        (("◁think▷", "◁/think▷"), ("◁think▷", "◁/think▷")),
        (("<think>",), None),
    ],
)
def test_thinking_formats(tokens: tuple[str, ...], pair: tuple[str, str] | None) -> None:
    tokenizer = TokenizerWrapper(_with_tokens(*tokens))
    assert (tokenizer.has_thinking, tokenizer.think_start) == (pair is not None, pair[0] if pair else None)


def test_explicit_detokenizer_and_rewrapping(byte_level: Any) -> None:
    inner = FastTokenizer(byte_level, special={"eos_token": "<|im_end|>"})
    wrapper = TokenizerWrapper(inner, NaiveStreamingDetokenizer, eos_token_ids=[1, 2])
    assert type(wrapper.detokenizer) is NaiveStreamingDetokenizer
    assert wrapper.eos_token_ids == {1, 2}
    assert TokenizerWrapper(wrapper)._inner is inner
    assert TokenizerWrapper(inner).eos_token_ids == {inner.eos_token_id}


def test_bad_input_is_typed(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    with pytest.raises(TokenizerError, match="Unicode"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(TypeError):
        tokenizer.encode(None)  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="negative"):
        tokenizer.decode([-1])


def test_save_and_load(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    saved = tmp_path / "saved"
    files = tokenizer.save_pretrained(saved)
    assert sorted(Path(file).name for file in files) == [
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    again = load_tokenizer(saved)
    assert again.encode("the dog<|im_end|>") == tokenizer.encode("the dog<|im_end|>")
    assert again.chat_template == tokenizer.chat_template
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert json.loads((saved / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_transformers_object() -> None:
    """Where transformers is installed, `_tokenizer` is its class; elsewhere it is our own object."""
    pytest.importorskip("transformers")
    from transformers import PreTrainedTokenizerBase  # pyright: ignore[reportMissingImports]

    assert isinstance(TokenizerWrapper(_with_tokens("a", "b"))._tokenizer, PreTrainedTokenizerBase)
