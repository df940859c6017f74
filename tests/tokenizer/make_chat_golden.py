"""Remakes chat_golden.json with transformers (not needed to run the tests)."""

# ruff: noqa: E501  (templates keep their own line breaks)

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

tools = [
    {
        "type": "function",
        "function": {
            "name": "get_w",
            "description": "Weather <b>",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Die Stadt ü"}},
                "required": ["city"],
            },
        },
    }
]
chatml = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
tooly = """{%- macro render(props) -%}
  {%- for key, value in props|dictsort -%}
    {{- key }}:{{ value.type|upper -}}{%- if not loop.last %}, {% endif -%}
  {%- endfor -%}
{%- endmacro -%}
{%- if tools %}
    {{- '[TOOLS]' }}
    {%- for tool in tools %}
        {%- set f = tool.function %}
        {{- f.name ~ '(' ~ render(f.parameters.properties) ~ ') ' + f|tojson + '\\n' }}
    {%- endfor %}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and m.role == 'user' %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.reasoning_content is defined and loop.index0 > ns.last %}
        {{- '<think>' + m.reasoning_content.strip('\\n') + '</think>' }}
    {%- endif %}
    {%- if m.content is string %}
        {{- m.role + ': ' + (m.content.split('</think>')[-1]|trim) + eos_token }}
    {%- else %}
        {%- for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}
    {%- endif %}
    {%- if m.tool_calls %}{% for call in m.tool_calls %}{% generation %}<call>{{ call.function.arguments|tojson(indent=2) }}</call>{% endgeneration %}{% endfor %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}
"""
conv1 = [
    {"role": "user", "content": "Hi <there> & 'you'"},
    {"role": "assistant", "content": "Hello!  "},
    {"role": "user", "content": " What's up?\n"},
]
conv2 = [
    {"role": "user", "content": "w?"},
    {"role": "assistant", "content": "x</think> y", "reasoning": "old"},
    {"role": "user", "content": [{"type": "text", "text": "now?"}, {"type": "image"}]},
    {
        "role": "assistant",
        "content": "",
        "thinking": "\nhm\n",
        "tool_calls": [{"type": "function", "function": {"name": "get_w", "arguments": {"city": "Köln"}}}],
    },
    {"role": "tool", "content": "sunny"},
]
conv3 = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "Sure,  "}]
out = []
for n, t in (("chatml", chatml), ("tools", tooly)):
    for c, conv in (("plain", conv1), ("calls", conv2), ("prefill", conv3)):
        if n == "chatml" and c == "calls":
            continue
        for tl in (None, tools):
            for on, opt in (
                ("prompt", {"add_generation_prompt": True}),
                ("none", {}),
                ("continue", {"continue_final_message": True}),
            ):
                if on == "continue" and c != "prefill":
                    continue
                v = {"eos_token": "</s>", "bos_token": "<s>", "enable_thinking": False}
                out.append(
                    dict(
                        name=f"{n}-{c}-{'tools' if tl else 'bare'}-{on}",
                        template=t,
                        messages=conv,
                        tools=tl,
                        variables=v,
                        options=opt,
                        expected=render_jinja_template([conv], tools=tl, chat_template=t, **v, **opt)[0][0],
                    )
                )
text = json.dumps(out, ensure_ascii=False, indent=1)
(Path(__file__).parent / "chat_golden.json").write_text(text + "\n", encoding="utf-8")
