"""How each format writes calls, as data: what opens them, where the name stands, how arguments are written, what ends.

Contract: `FORMS` has an entry for every format of the parsers that can be enforced, `REFUSED` a reason for every other
one. Facts about the formats stand with their parsers in `mlx_lm.tokenizer.parsers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from .literals import GEMMA4, GEMMA_FUNCTION, PYTHON, Literals
from .tagged import KIND, NAME, Tags

__all__ = ["ARGUMENTS", "FORMS", "LINE", "NUMBER", "REFUSED", "Form", "Messages", "Part"]


@dataclass(frozen=True)
class Hole:
    """A place in a call that is no fixed text."""

    what: str


ARGUMENTS, LINE, NUMBER = Hole("arguments"), Hole("a line break or nothing"), Hole("a small number")
Part: TypeAlias = str | Hole


@dataclass(frozen=True)
class Messages:
    """A format whose messages have headers; calls are one of them.

    `reasoning` are (header, end) of messages before the answer, `answer` is its header. `stops` cannot stand in texts.
    """

    reasoning: tuple[tuple[str, str], ...]
    answer: str
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """How a format writes calls: `begin`, the calls with `between` them, `end`.

    Attributes:
        call: what one call is made of; `NAME` in a text is the tool's name. In free text, what comes first tells that
            calls begin.
        arguments: how they are written; None is a JSON object.
        quoted: the name stands as a JSON string.
        bare: nothing but this text at the beginning of an answer tells that calls begin.
        tail: ends the turn; it is not written where it is a token that ends generation.
        thought: reasoning that the format cannot tell from calls by its first token: (start, end).
        messages: of formats with channels.
        names: other ways to write a call.
    """

    call: tuple[Part, ...]
    begin: tuple[str, ...] = ()
    between: tuple[Part, ...] = ()
    end: tuple[Part, ...] = ()
    arguments: Tags | Literals | None = None
    quoted: bool = False
    bare: str = ""
    tail: str = ""
    thought: tuple[str, str] | None = None
    messages: Messages | None = None
    others: tuple[tuple[Part, ...], ...] = ()


def _json(name_key: str = "name", arguments_key: str = "arguments") -> tuple[Part, ...]:
    return (f'{{"{name_key}": {NAME}, "{arguments_key}": ', ARGUMENTS, "}")


def _json_list(begin: tuple[str, ...], end: tuple[str, ...] = (), call: tuple[Part, ...] | None = None) -> Form:
    return Form(call or _json(), (*begin, "["), (", ",), ("]", *end), quoted=True)


def _function(start: str, end: str, lines: str) -> Form:
    """Qwen's tags."""
    tags = Tags(f"<parameter={NAME}>", "</parameter>", lines=lines, after="\n")
    return Form((start, f"\n<function={NAME}>\n", ARGUMENTS, f"</function>\n{end}"), between=(LINE,), arguments=tags)


def _keys(prefix: str, *line: Part) -> Form:
    """GLM's tags; `line` stands where some versions break the line."""
    key, value = f"{prefix}arg_key", f"{prefix}arg_value"
    layout = "\n" if line == ("\n",) else ""
    tags = Tags(f"<{key}>{NAME}</{key}>{layout}<{value}>", f"</{value}>", after=layout)
    call = (f"<{prefix}tool_call>", NAME, *line, ARGUMENTS, f"</{prefix}tool_call>")
    return Form(call, between=(LINE,), arguments=tags)


def _invoke(prefix: str, attribute: str = "", kinds: Mapping[str, str] | None = None) -> tuple[tuple[Part, ...], Tags]:
    """MiniMax M2's tags, and those of others who have a prefix."""
    tags = Tags(f'<{prefix}parameter name="{NAME}"{attribute}>', f"</{prefix}parameter>", kinds, after="\n")
    return (f'<{prefix}invoke name="{NAME}">\n', ARGUMENTS, f"</{prefix}invoke>\n"), tags


_INVOKE, _INVOKE_TAGS = _invoke("")
_ATEM, _ATEM_TAGS = _invoke("atem:")
_D = "｜DSML｜"  # noqa: RUF001
_DSML, _DSML_TAGS = _invoke(_D, f' string="{KIND}"', {"string": "true", "": "false"})
_M3 = "]<]minimax[>["
_XTML_KINDS = {"": "object", **{kind: kind for kind in ("string", "number", "boolean", "null", "array")}}
_XTML_KINDS["integer"] = "number"
_HARMONY = ("<|channel|>commentary to=functions.", NAME, " <|constrain|>json<|message|>", ARGUMENTS)
_HARMONY_OTHER = (" to=functions.", NAME, "<|channel|>commentary <|constrain|>json<|message|>", ARGUMENTS)

FORMS: Mapping[str, Form] = MappingProxyType(
    {
        # JSON
        "json_tools": Form(
            ("<tool_call>", "\n", *_json(), "\n", "</tool_call>"), between=("\n",), quoted=True
        ),
        "llama3": Form(_json("name", "parameters"), between=("; ",), quoted=True, bare="{"),
        "granite": _json_list(("<|tool_call|>",)),
        "phi4_mini": Form(_json(), ("functools[",), (", ",), ("]",), quoted=True),
        "nemotron": _json_list(("<TOOLCALL>",), ("</TOOLCALL>",)),
        "mistral": Form(("[TOOL_CALLS]", NAME, "[ARGS]", ARGUMENTS)),
        "mistral_list": _json_list(("[TOOL_CALLS]",)),
        "command_r": _json_list(("<|START_ACTION|>",), ("<|END_ACTION|>",), _json("tool_name", "parameters")),
        "deepseek_v3": Form(
            ("<｜tool▁call▁begin｜>", NAME, "<｜tool▁sep｜>", ARGUMENTS, "<｜tool▁call▁end｜>"),  # noqa: RUF001
            ("<｜tool▁calls▁begin｜>",),  # noqa: RUF001
            end=("<｜tool▁calls▁end｜>",),  # noqa: RUF001
        ),
        "kimi_k2": Form(
            ("<|tool_call_begin|>", f"functions.{NAME}:", NUMBER, "<|tool_call_argument_begin|>", ARGUMENTS,
             "<|tool_call_end|>"),
            ("<|tool_calls_section_begin|>",),
            end=("<|tool_calls_section_end|>",),
        ),
        "harmony": Form(
            _HARMONY,
            tail="<|call|>",
            messages=Messages(
                (
                    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
                    ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant"),
                ),
                "<|channel|>final<|message|>",
                ("<|channel|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>"),
            ),
            others=(_HARMONY_OTHER,),
        ),
        # Tags
        "qwen3_coder": _function("<tool_call>", "</tool_call>", "always"),
        "seed_oss": _function("<seed:tool_call>", "</seed:tool_call>", "maybe"),
        "glm47": _keys("", LINE),
        "laguna": _keys("", "\n"),
        "longcat": _keys("longcat_", "\n"),
        "minimax_m2": Form(
            _INVOKE, ("<minimax:tool_call>", "\n"), end=("</minimax:tool_call>",), arguments=_INVOKE_TAGS
        ),
        "minimax_m3": Form(
            (f'{_M3}<invoke name="{NAME}">', ARGUMENTS, f"{_M3}</invoke>\n"),
            (f"{_M3}<tool_call>", "\n"),
            end=(f"{_M3}</tool_call>",),
            arguments=Tags(f"{_M3}<{NAME}>", f"{_M3}</{NAME}>", clear=_M3),
        ),
        "minicpm5": Form(
            ("<function name=", f'"{NAME}">', ARGUMENTS, "</function>"),
            arguments=Tags(f'<param name="{NAME}">', "</param>", cdata=True),
        ),
        "deepseek_v32": Form(
            _DSML, (f"<{_D}function_calls>", "\n"), end=(f"</{_D}function_calls>",), arguments=_DSML_TAGS
        ),
        "kimi_k3": Form(
            (f'<|open|>call tool="{NAME}" index="', NUMBER, '"<|sep|>', ARGUMENTS, "<|close|>call<|sep|>"),
            ("<|open|>tools<|sep|>",),
            end=("<|close|>tools<|sep|>",),
            arguments=Tags(
                f'<|open|>argument key="{NAME}" type="{KIND}"<|sep|>', "<|close|>argument<|sep|>", _XTML_KINDS
            ),
            thought=("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        ),
        "muse_spark": Form(
            (f" to={NAME}<|message|>", "<atem:function_calls>", "\n", *_ATEM, "</atem:function_calls>"),
            arguments=_ATEM_TAGS,
            tail="<|eom|>",
            messages=Messages(
                ((" to=self<|message|>", "<|eom|><|start|>assistant"),),
                " to=user<|message|>",
                ("<|eom|>", "<|eot|>", "<|start|>", "<atem:function_calls>"),
            ),
        ),
        # Literals
        "pythonic": Form(
            (NAME, "(", ARGUMENTS, ")"),
            ("<|tool_call_start|>", "["),
            (", ",),
            ("]", "<|tool_call_end|>"),
            Literals(PYTHON, equals=True),
        ),
        "llama_pythonic": Form(
            (NAME, "(", ARGUMENTS, ")"), ("[",), (", ",), ("]",), Literals(PYTHON, equals=True), bare="["
        ),
        "gemma4": Form(("<|tool_call>", f"call:{NAME}{{", ARGUMENTS, "}", "<tool_call|>"), arguments=Literals(GEMMA4)),
        "function_gemma": Form(
            ("<start_function_call>", f"call:{NAME}{{", ARGUMENTS, "}", "<end_function_call>"),
            arguments=Literals(GEMMA_FUNCTION),
        ),
    }
)  # fmt: skip
REFUSED: Mapping[str, str] = MappingProxyType({})
