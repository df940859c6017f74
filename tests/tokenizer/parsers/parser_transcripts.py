"""Tool calls as each model writes them: renderers that follow the chat templates, and texts that are no calls."""

# ruff: noqa: RUF001

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_lm.tokenizer.parsers import FORMATS, STYLES, ParserChoice

Call = tuple[str, Mapping[str, Any]]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "zip": {"type": "string"},
                    "exact": {"type": "boolean"},
                    "scale": {"type": "number"},
                    "options": {"type": "object"},
                    "tags": {"type": "array"},
                    "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
STYLE_OF = {"gemma4": "gemma4", "command_r": "cohere", "seed_oss": "seed", "longcat": "longcat", "mistral": "mistral"}
STYLE_OF |= {name: name for name in ("harmony", "muse_spark", "kimi_k3", "minimax_m3")}


def choice(name: str) -> ParserChoice:
    return ParserChoice(STYLES[STYLE_OF.get(name, "think")], FORMATS[name])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _each(template: Callable[[str, Mapping[str, Any]], str], joint: str = "") -> Callable[[list[Call]], str]:
    return lambda calls: joint.join(template(name, arguments) for name, arguments in calls)


def _objects(calls: list[Call], key: str = "arguments") -> str:
    return "[" + ", ".join(f'{{"name": "{name}", "{key}": {_json(arguments)}}}' for name, arguments in calls) + "]"


def _parameters(arguments: Mapping[str, Any], form: str, value: Callable[[Any], str] = _plain) -> str:
    return "".join(form.format(k=k, v=value(v), s=str(isinstance(v, str)).lower()) for k, v in arguments.items())


def _python(value: Any) -> str:
    return repr(value)


def _gemma(quote: str) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        if isinstance(value, str):
            return f"{quote}{value}{quote}"
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{k}:{write(v)}" for k, v in value.items()) + "}"
        return "[" + ",".join(map(write, value)) + "]" if isinstance(value, list) else _json(value)

    return write


_M3 = "]<]minimax[>["


def _m3(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        inner = "".join(_m3(k, v) for k, v in value.items())
    elif isinstance(value, list):
        inner = "".join(_m3("item", v) for v in value)
    else:
        inner = _plain(value)
    return f"{_M3}<{name}>{inner}{_M3}</{name}>"


def _m3_calls(calls: list[Call]) -> str:
    inner = "".join(
        f'{_M3}<invoke name="{name}">{"".join(_m3(k, v) for k, v in arguments.items())}{_M3}</invoke>\n'
        for name, arguments in calls
    )
    return f"{_M3}<tool_call>\n{inner}{_M3}</tool_call>"


def _xtml(name: str, arguments: Mapping[str, Any]) -> str:
    kinds = {bool: "boolean", type(None): "null", str: "string", dict: "object", list: "array"}
    body = "".join(
        f'<|open|>argument key="{k}" type="{kinds.get(type(v), "number")}"<|sep|>{_plain(v)}<|close|>argument<|sep|>'
        for k, v in arguments.items()
    )
    return f'<|open|>call tool="{name}" index="1"<|sep|>{body}<|close|>call<|sep|>'


def _qwen(name: str, arguments: Mapping[str, Any]) -> str:
    return f"<function={name}>\n" + _parameters(arguments, "<parameter={k}>\n{v}\n</parameter>\n") + "</function>"


def _named(prefix: str) -> Callable[[str, Mapping[str, Any]], str]:
    def write(name: str, arguments: Mapping[str, Any]) -> str:
        body = _parameters(arguments, f'<{prefix}parameter name="{{k}}">{{v}}</{prefix}parameter>\n')
        return f'<{prefix}invoke name="{name}">\n{body}</{prefix}invoke>\n'

    return write


def _dsml(name: str, arguments: Mapping[str, Any]) -> str:
    d = "｜DSML｜"
    body = _parameters(arguments, f'<{d}parameter name="{{k}}" string="{{s}}">{{v}}</{d}parameter>\n')
    return f'<{d}invoke name="{name}">\n{body}</{d}invoke>\n'


def _cdata(value: Any) -> str:
    text = _plain(value)
    return f"<![CDATA[{text}]]>" if any(c in text for c in "<&\n") or text != text.strip() else text


def _minicpm(name: str, arguments: Mapping[str, Any]) -> str:
    return f'<function name="{name}">' + _parameters(arguments, '<param name="{k}">{v}</param>', _cdata) + "</function>"


def _pythonic(calls: list[Call]) -> str:
    return "[" + ", ".join(f"{n}({', '.join(f'{k}={_python(v)}' for k, v in a.items())})" for n, a in calls) + "]"


def _deepseek(name: str, arguments: Mapping[str, Any]) -> str:
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(arguments)}\n```<｜tool▁call▁end｜>"


def _kimi(calls: list[Call]) -> str:
    inner = "".join(
        f"<|tool_call_begin|>functions.{n}:{i}<|tool_call_argument_begin|>{_json(a)}<|tool_call_end|>"
        for i, (n, a) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


def _glm(prefix: str, line: str) -> Callable[[str, Mapping[str, Any]], str]:
    key, value = f"{prefix}arg_key", f"{prefix}arg_value"
    form = f"<{key}>{{k}}</{key}>{line}<{value}>{{v}}</{value}>{line}"
    return lambda n, a: f"<{prefix}tool_call>{n}{line}{_parameters(a, form)}</{prefix}tool_call>"


def _harmony(name: str, arguments: Mapping[str, Any]) -> str:
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{_json(arguments)}<|call|>"


def _muse(name: str, arguments: Mapping[str, Any]) -> str:
    body = _named("atem:")(name, arguments)
    return f" to={name}<|message|><atem:function_calls>\n{body}</atem:function_calls><|eom|>"


def _wrap(start: str, inner: Callable[[list[Call]], str], end: str) -> Callable[[list[Call]], str]:
    return lambda calls: start + inner(calls) + end


RENDER: dict[str, Callable[[list[Call]], str]] = {
    "json_tools": _each(
        lambda n, a: f'<tool_call>\n{{"name": "{n}", "arguments": {_json(a)}}}\n</tool_call>', joint="\n"
    ),
    "qwen3_coder": _each(lambda n, a: f"<tool_call>\n{_qwen(n, a)}\n</tool_call>", joint="\n"),
    "seed_oss": _each(lambda n, a: f"<seed:tool_call>\n{_qwen(n, a)}\n</seed:tool_call>"),
    "glm47": _each(_glm("", ""), joint=""),
    "laguna": _each(_glm("", "\n"), joint="\n"),
    "longcat": _each(_glm("longcat_", "\n"), joint="\n"),
    "minimax_m2": _wrap("<minimax:tool_call>\n", _each(_named("")), "</minimax:tool_call>"),
    "minimax_m3": _m3_calls,
    "minicpm5": _each(_minicpm),
    "deepseek_v32": _wrap("<｜DSML｜function_calls>\n", _each(_dsml), "</｜DSML｜function_calls>"),
    "kimi_k3": _wrap("<|open|>tools<|sep|>", _each(_xtml), "<|close|>tools<|sep|>"),
    "muse_spark": _each(_muse, joint="<|start|>assistant"),
    "harmony": _each(_harmony, joint="<|start|>assistant"),
    "granite": lambda calls: "<|tool_call|>" + _objects(calls),
    "phi4_mini": lambda calls: "functools" + _objects(calls),
    "command_r": lambda calls: (
        "<|START_ACTION|>[\n"
        + ",\n".join(
            f'    {{"tool_call_id": "{i}", "tool_name": "{n}", "parameters": {_json(a)}}}'
            for i, (n, a) in enumerate(calls)
        )
        + "\n]<|END_ACTION|>"
    ),
    "llama3": _each(lambda n, a: f'{{"name": "{n}", "parameters": {_json(a)}}}', joint="; "),
    "mistral": _each(lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{_json(a)}"),
    "kimi_k2": _kimi,
    "deepseek_v3": _wrap("<｜tool▁calls▁begin｜>", _each(_deepseek, "\n"), "<｜tool▁calls▁end｜>"),
    "nemotron": lambda calls: f"<TOOLCALL>{_objects(calls)}</TOOLCALL>",
    "pythonic": lambda calls: f"<|tool_call_start|>{_pythonic(calls)}<|tool_call_end|>",
    "llama_pythonic": _pythonic,
    "gemma4": _each(lambda n, a: "<|tool_call>call:" + n + _gemma('<|"|>')(a) + "<tool_call|>"),
    "function_gemma": _each(lambda n, a: f"<start_function_call>call:{n}{_gemma('<escape>')(a)}<end_function_call>"),
}
BARE = frozenset(("llama3", "llama_pythonic"))  # a call only where the answer begins
CHANNELS = frozenset(("harmony", "muse_spark"))


@dataclass(frozen=True)
class Broken:
    """A text that looks like a call and is none."""

    format: str
    text: str


BROKEN = (
    Broken("json_tools", "Use <tool_call> tags for that."),
    Broken("json_tools", '<tool_call>\n{"name": "now", "arguments": {"a": 1,,}}\n</tool_call> after'),
    Broken("json_tools", '<tool_call>{"name": "now", "arguments": {"a": "cut'),
    Broken("json_tools", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    Broken("json_tools", '<tool_call>{"arguments": {}}</tool_call>'),
    Broken("json_tools", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    Broken("json_tools", "<tool_call>" + '{"name": "f", "arguments": ' + '{"a":' * 100),
    Broken("qwen3_coder", "<tool_call>\n<function=now>\n<parameter=a>\ncut"),
    Broken("qwen3_coder", "<tool_call>\n<function=now>\nprose\n</function>\n</tool_call>"),
    Broken("qwen3_coder", "<tool_call>\n<function=now>\n<parameter=a>\n1\n</parameter>\n"),
    Broken("seed_oss", "<seed:tool_call>no</seed:tool_call>"),
    Broken("glm47", "<tool_call>now\n<arg_key>a</arg_key>\n<arg_value>cut"),
    Broken("laguna", "<tool_call>two words</tool_call>"),
    Broken("longcat", "<longcat_tool_call>now<longcat_arg_key>a</longcat_arg_key>oops</longcat_tool_call>"),
    Broken("minimax_m2", '<minimax:tool_call>\n<invoke name="now">\n<parameter name="a">1</parameter>'),
    Broken("minimax_m3", f'{_M3}<tool_call>{_M3}<invoke name="now">{_M3}<a>1{_M3}</b>'),
    Broken("minicpm5", 'The tag <function name="x"> is used so.'),
    Broken("deepseek_v32", '<｜DSML｜function_calls>\n<｜DSML｜invoke nam="x">\n'),
    Broken("kimi_k3", '<|open|>tools<|sep|><|open|>call tool="now" index="1"<|sep|>x'),
    Broken("muse_spark", '<atem:function_calls>\n<atem:invoke name="now">\n<atem:parameter name="a">1'),
    Broken("harmony", '<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"a": '),
    Broken("harmony", "<|channel|>commentary to=python code<|message|>print(1)"),
    Broken("granite", '<|tool_call|>[{"name": "now", "arguments": oops}]'),
    Broken("phi4_mini", "functools is a module of Python"),
    Broken("command_r", '<|START_ACTION|>[{"tool_name": 1}]<|END_ACTION|>'),
    Broken("llama3", '{"name": "Alice", "parameters": {"age": 3}}'),
    Broken("llama3", '{"name": "now"}'),
    Broken("llama3", "<|python_tag|>print(1)"),
    Broken("mistral", "[TOOL_CALLS] are made so"),
    Broken("mistral", '[TOOL_CALLS]now[ARGS]{"a": 1'),
    Broken("kimi_k2", "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>oops<|tool_call_end|>"),
    Broken("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{oops"),
    Broken("nemotron", "<TOOLCALL>[oops]</TOOLCALL>"),
    Broken("pythonic", "<|tool_call_start|>[now(1)]<|tool_call_end|>"),
    Broken("pythonic", "<|tool_call_start|>[now(a='cut"),
    Broken("llama_pythonic", "[link](http://x) and more"),
    Broken("llama_pythonic", "[1, 2, 3]"),
    Broken("gemma4", '<|tool_call>call:now{a:<|"|>cut'),
    Broken("function_gemma", "<start_function_call>now{}<end_function_call>"),
)
