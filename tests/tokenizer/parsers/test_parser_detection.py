"""Which parsers a chat template asks for, what a tokenizer tells about them, and whether a prompt opens reasoning."""

# ruff: noqa: RUF001

import importlib
import importlib.util
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from parser_transcripts import TOOLS

from mlx_lm.errors import TokenizerError
from mlx_lm.tokenizer import ChatTemplate, FastTokenizer, TokenizerWrapper
from mlx_lm.tokenizer.parsers import FORMATS, choose_parsers, parse_complete, prompt_opens_thinking, tool_format

SNIPPETS = [
    ("{{ '<tool_call>\\n{\"name\": ' }}", "json_tools"),
    ("<tool_call>\\n<function=x>\\n<parameter=y>", "qwen3_coder"),
    ("<tool_call>{{ tc.name }}<arg_key>{{ k }}</arg_key>", "glm47"),
    ("<longcat_tool_call>", "longcat"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("]<]minimax[>[<tool_call>", "minimax_m3"),
    ("'<function name=\"' ~ name ~ '\">' '<param name=\"'", "minicpm5"),
    ("<｜DSML｜function_calls>", "deepseek_v32"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("'<|open|>' + tag '<|sep|>' '<|close|>'", "kimi_k3"),
    ("<atem:function_calls>", "muse_spark"),
    ("<start_function_call>", "function_gemma"),
    ("<|tool_call>call: <tool_call|>", "gemma4"),
    ("<seed:tool_call>", "seed_oss"),
    ("<|channel|>commentary <|message|> <|call|>", "harmony"),
    ("<|START_ACTION|>", "command_r"),
    ("[TOOL_CALLS]", "mistral"),
    ("<TOOLCALL>", "nemotron"),
    ("<|tool_call_start|>", "pythonic"),
    ("<|tool_list_start|>", "pythonic"),
    ('<|tool_call|>[{"name"', "granite"),
    ("functools[", "phi4_mini"),
    ("<|tool|>{{ tools }}<|/tool|>", "phi4_mini"),
    ("[func_name1(params_name1=params_value1]", "llama_pythonic"),
    ("<|python_tag|>", "llama3"),
    ('respond {\\"name\\": function name, \\"parameters\\": x}', "llama3"),
    ("{{ messages }}", None),
    ("", None),
]
# Of the chat templates in TRL 1.16.0.
TRL = {
    "cohere": (None, None),
    "cohere2": (None, None),
    "deepseek_r1_distill": ("deepseek_v3", "think"),
    "deepseekv3": ("deepseek_v3", "think"),
    "diffusion_gemma": ("gemma4", "gemma4"),
    "gemma": (None, None),
    "gemma3": (None, None),
    "gemma4": ("gemma4", "gemma4"),
    "gemma4_v5": ("gemma4", "gemma4"),
    "glm4moe": ("glm47", "think"),
    "gptoss": ("harmony", "harmony"),
    "lfm2": ("pythonic", None),
    "lfm2_2_5_v2": ("pythonic", "think"),
    "llama3": (None, None),
    "llama3_1": ("llama3", None),
    "llama3_2": ("llama3", None),
    "muse_glimmer": ("muse_spark", "muse_spark"),
    "nemotron_3_nano": ("qwen3_coder", "think"),
    "phi3": (None, None),
    "qwen2_5": ("json_tools", None),
    "qwen2_5_vl": (None, None),
    "qwen3": ("json_tools", "think"),
    "qwen3_5_think": ("qwen3_coder", "think"),
    "qwen3_8": ("qwen3_coder", "think"),
    "qwen3_instruct_2507": ("json_tools", None),
    "smolvlm": (None, None),
}


def trl_folder() -> Path | None:
    given = os.environ.get("MLX_LM_TRL_TEMPLATES")
    found = importlib.util.find_spec("trl") if not given else None
    return Path(given) if given else Path(str(found.origin)).parent / "chat_templates" if found else None


@pytest.mark.parametrize(("template", "name"), SNIPPETS)
def test_templates(template: str, name: str | None) -> None:
    tools = choose_parsers(template).tools
    assert (tools.name if tools else None) == name


@pytest.mark.parametrize("name", TRL)
def test_trl_templates(name: str) -> None:
    folder = trl_folder()
    if folder is None:
        pytest.skip("TRL is not installed, and MLX_LM_TRL_TEMPLATES names no folder")
    picked = choose_parsers((folder / f"{name}.jinja").read_text(encoding="utf-8"))
    assert (picked.tools and picked.tools.name, picked.reasoning and picked.reasoning.name) == TRL[name]


# Templates that leave the calls of earlier turns out, or ask for arguments as a string, or allow one call only.
NO_CALLS = frozenset(("deepseek_r1_distill", "lfm2"))
TEXT_ARGUMENTS = frozenset(("deepseekv3",))
ENDS = ("<|im_end|>", "<|eot_id|>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "<|eot|>")
ARGUMENTS = {"city": 'Paris "q" é', "days": 3, "options": {"a": [1, True]}, "tags": ["x", "y"]}


@pytest.mark.parametrize("name", sorted(name for name in TRL if TRL[name][0] and name not in NO_CALLS))
def test_what_a_template_writes_is_read(name: str) -> None:
    folder = trl_folder()
    if folder is None:
        pytest.skip("TRL is not installed, and MLX_LM_TRL_TEMPLATES names no folder")
    source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    arguments = json.dumps(ARGUMENTS) if name in TEXT_ARGUMENTS else ARGUMENTS
    call = {"type": "function", "id": "a", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [{"role": "user", "content": "Q?"}]
    answer = {"role": "assistant", "content": "", "reasoning_content": "I think.", "tool_calls": [call]}
    template, picked = ChatTemplate(source), choose_parsers(source)
    described = json.loads(json.dumps(TOOLS[:1]))
    described[0]["function"]["description"] = "d"
    prompt = template.render(messages, tools=described, add_generation_prompt=True)
    whole = template.render([*messages, answer], tools=described)
    common = "".join(
        a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
    )
    if common != prompt:  # the template leaves out what the prompt opens
        common = common.removesuffix("<")
    text = whole[len(common) :].rstrip()
    for end in ENDS:
        text = text.removesuffix(end)
    opened = picked.reasoning is not None and prompt_opens_thinking(common, picked.reasoning.start)
    parsed = parse_complete(text, picked, tools=TOOLS, in_reasoning=opened)
    assert [json.loads(made.arguments) for made in parsed.tool_calls] == [ARGUMENTS], text
    assert parsed.content == "" and parsed.reasoning in ("I think.", None)


def test_tokens_tell_what_a_template_leaves_out() -> None:
    vocab = {"<|tool_calls_section_begin|>": 1, "<think>": 2, "</think>": 3}
    picked = choose_parsers("{{ tools | tojson }}", vocab)
    assert picked.tools is FORMATS["kimi_k2"] and picked.reasoning is not None and picked.reasoning.name == "think"
    assert choose_parsers("{{ messages }}", vocab).tools is None


def test_reasoning_styles() -> None:
    for text, name in [
        ("<seed:think></seed:think>", "seed"),
        ("<|START_THINKING|><|END_THINKING|>", "cohere"),
        ("content.split('</think>')[-1]", "think"),
        ("◁think▷◁/think▷", "kimi"),
    ]:
        style = choose_parsers(text).reasoning
        assert style is not None and style.name == name
    gemma = choose_parsers(None, {"<|channel>": 1, "<channel|>": 2}).reasoning
    assert gemma is not None and gemma.start == "<|channel>thought"


def test_override() -> None:
    assert choose_parsers("<tool_call>", None, "mistral").tools is FORMATS["mistral"]
    assert choose_parsers("<tool_call>", None, "none").tools is None
    assert tool_format("hermes") is FORMATS["json_tools"] and tool_format("Kimi-K2") is FORMATS["kimi_k2"]
    with pytest.raises(TokenizerError, match="json_tools"):
        choose_parsers("", None, "martian")


def test_prompt_opens_thinking() -> None:
    assert prompt_opens_thinking("<|im_start|>assistant\n<think>\n", "<think>")
    assert not prompt_opens_thinking("<think>\n\n</think>\n\n", "<think>")
    assert not prompt_opens_thinking("What does <think> mean?", "<think>")
    assert not prompt_opens_thinking("", "<think>") and not prompt_opens_thinking("x", "")
    assert prompt_opens_thinking([9, 1, 5], [1], [2])
    assert not prompt_opens_thinking([9, 1, 5, 2, 5], [1], [2])
    assert not prompt_opens_thinking([1, 9, 9, 9, 9, 9], [1], [2])
    assert prompt_opens_thinking([9, 7, 8], [7, 8], [2, 3]) and not prompt_opens_thinking([], [1])
    assert not prompt_opens_thinking([1, 2], "<think>")


class Inner:
    """A tokenizer of single characters, with a template and a config."""

    def __init__(self, chat_template: str, **config: Any) -> None:
        self.chat_template = chat_template
        self.init_kwargs = config
        self.eos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {}

    def encode(self, text: str, **_: Any) -> list[int]:
        return list(map(ord, text))


def test_a_tokenizer_knows_its_parsers() -> None:
    tokenizer = TokenizerWrapper(Inner("<tool_call><function=x>"))
    assert tokenizer.parsers.tools is FORMATS["qwen3_coder"] and tokenizer.has_tool_calling
    assert (tokenizer.tool_call_start, tokenizer.tool_call_end) == ("<tool_call>", "</tool_call>")
    assert tokenizer.tool_parser is not None
    text = "\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n"
    assert tokenizer.tool_parser(text, None) == {"name": "f", "arguments": {"a": 1}}
    tokenizer.chat_template = "[TOOL_CALLS]"
    assert (tokenizer.tool_call_start, tokenizer.tool_call_end) == ("[TOOL_CALLS]", "")
    tokenizer.chat_template = "plain"
    assert not tokenizer.has_tool_calling and tokenizer.tool_parser is None and tokenizer.tool_call_start is None


def test_a_tokenizers_config_chooses() -> None:
    tokenizer = TokenizerWrapper(Inner("<tool_call>", tool_parser_type="glm47"))
    assert tokenizer.parsers.tools is FORMATS["glm47"]
    wrong = TokenizerWrapper(Inner("<tool_call>", tool_parser_type="martian"))
    assert not wrong.has_thinking
    with pytest.raises(TokenizerError, match="martian"):
        _ = wrong.has_tool_calling


def test_given_markers_win() -> None:
    tokenizer = TokenizerWrapper(Inner("<tool_call>"), tool_call_start="[[", tool_call_end="]]")
    assert tokenizer.tool_call_start == "[[" and tokenizer.tool_parser is None
    parse = lambda text, tools: {"name": text}  # noqa: E731
    assert TokenizerWrapper(Inner("<tool_call>"), tool_parser=parse).tool_parser is parse


def test_thinking_of_channel_formats() -> None:
    tokenizer = TokenizerWrapper(Inner("<|channel|>analysis<|message|><|call|>"))
    assert (tokenizer.think_start, tokenizer.think_end) == ("<|channel|>analysis<|message|>", "<|end|>")


NAMES = sorted(set(FORMATS) - {"seed_oss", "minimax_m3", "deepseek_v32", "deepseek_v3", "granite", "phi4_mini"})
NAMES = [name for name in NAMES if name not in ("command_r", "llama3", "llama_pythonic", "nemotron", "harmony")]


@pytest.mark.parametrize("name", NAMES)
def test_public_modules(name: str) -> None:
    module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    assert (module.tool_call_start, module.tool_call_end) == (FORMATS[name].start, FORMATS[name].end)
    with pytest.raises(ValueError, match="Not a tool call"):
        module.parse_tool_call("neither fish nor fowl", None)


def test_fast_tokenizer_is_asked_for_tokens(byte_level: Any) -> None:
    tokenizer = TokenizerWrapper(FastTokenizer(byte_level, chat_templates={"default": "{{ tools }}"}))
    assert tokenizer.parsers.tools is None
