"""Chat templates render what transformers renders; sources are read in the right order."""

# ruff: noqa: E501  (one case, one line)

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mlx_lm.errors import ChatTemplateError, TokenizerError
from mlx_lm.tokenizer.chat_template import ChatTemplate, find_templates

USER = {"role": "user", "content": "Hi <b> & 'you' é"}
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("{{ messages|tojson }}", {}, '[{"role": "user", "content": "Hi <b> & \'you\' é"}]'),
    ("{{ messages[0]|tojson(indent=2) }}", {}, '{\n  "role": "user",\n  "content": "Hi <b> & \'you\' é"\n}'),
    (
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        {},
        "013",
    ),
    ("  {% if true %}\n  x\n  {% endif %}\n", {}, "  x\n"),
    ("a{% generation %}b{{ messages|length }}{% endgeneration %}c", {}, "ab1c"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", {}, "1"),
    ("{% macro f(x, y='d') %}[{{ x }}{{ y }}]{% endmacro %}{{ f('a') ~ f('b', y='c') }}", {}, "[ad][bc]"),
    ("{{ bos_token }}{{ missing }}{{ x is defined }}{{ tools is none }}", {"bos_token": "<s>"}, "<s>FalseTrue"),
    ("{{ '%s-%03d' % ('a', 7) }}{{ '{:>4}'.format('b') }}{{ 'abc'[::-1] }}", {}, "a-007   bcba"),
    ("{{ 'a,b'.split(',')|map('upper')|join('+') }}{{ [3, 1, 2]|sort|first }}", {}, "A+B1"),
    (
        "{{ dict(a=1, **{'b': 2})|items|list }}{{ {'b': 1, 'a': 2}|dictsort }}",
        {},
        "[('a', 1), ('b', 2)][('a', 2), ('b', 1)]",
    ),
    ("{% for a, b in {'x': 1}.items() %}{{ a }}{{ b }}{{ loop.index }}/{{ loop.length }}{% endfor %}", {}, "x11/1"),
    (
        "{% filter upper %}x{{ 1 }}{% endfilter %}{% call(v) f() %}{{ v }}{% endcall %}{% macro f() %}{{ caller(3) }}{% endmacro %}",
        {},
        "ERR",
    ),
    ("{{ messages[1:]|length }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", {}, "01"),
    ("{{ 'x'|center(5) }}|{{ 'a\nb'|indent(2) }}|{{ 1.25|round(1) }}|{{ [1, 2]|sum }}", {}, "  x  |a\n  b|1.2|3"),
]


@pytest.mark.parametrize(("source", "variables", "expected"), CASES, ids=range(len(CASES)))
def test_rendering(source: str, variables: dict[str, Any], expected: str) -> None:
    if expected == "ERR":
        with pytest.raises(ChatTemplateError):
            ChatTemplate(source).render([USER], variables=variables)
    else:
        assert ChatTemplate(source).render([USER], variables=variables) == expected


GOLDEN = json.loads((Path(__file__).parent / "chat_golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_equal_to_transformers(case: dict[str, Any]) -> None:
    """Outputs of transformers 5.23 for templates in the style of the big families."""
    text = ChatTemplate(case["template"]).render(
        case["messages"], tools=case["tools"], variables=case["variables"], **case["options"]
    )
    assert text == case["expected"]


def test_raise_exception_keeps_the_message() -> None:
    with pytest.raises(ChatTemplateError, match=r"^roles must alternate$"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render([USER])


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ a", "{% nonsense %}", "{{ 1/0 }}", "{{ missing.x.y }}", "{{ [] + 1 }}"]
)
def test_broken_templates_are_typed_errors(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render([USER])


def test_time() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([]) == datetime.now().strftime("%Y")


def test_continue_final_message() -> None:
    turns = [USER, {"role": "assistant", "content": "Sure, "}]
    keeps = ChatTemplate("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    trims = ChatTemplate("{% for m in messages %}<{{ m.content|trim }}>{% endfor %}")
    assert keeps.render(turns, continue_final_message=True).endswith("<Sure, ")
    assert trims.render(turns, continue_final_message=True).endswith("<Sure,")
    assert turns[1] == {"role": "assistant", "content": "Sure, "}
    with pytest.raises(ChatTemplateError, match="exclude"):
        keeps.render(turns, continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(ChatTemplateError, match="does not keep"):
        ChatTemplate("nothing").render(turns, continue_final_message=True)
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "ab"}]}]
    nested = ChatTemplate("{% for m in messages %}{{ m.content[0].text }}.{% endfor %}")
    assert nested.render(parts, continue_final_message=True) == "ab"


def test_callers_data_is_plain_and_untouched() -> None:
    class Image:
        def save(self) -> None:
            raise AssertionError("a template reached a method of the caller's object")

    messages = [{"role": "user", "content": [{"type": "image", "image": Image()}]}]
    template = ChatTemplate("{{ messages[0].content[0].image }}{{ messages[0].content[0].image.save() }}")
    with pytest.raises(ChatTemplateError):
        template.render(messages)
    with pytest.raises(ChatTemplateError, match="must be a dict"):
        template.render(["hello"])


def test_sources_win_over_each_other(tmp_path: Path) -> None:
    assert find_templates(tmp_path, {}) == {}
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert find_templates(tmp_path, {}) == {"default": "json"}
    assert find_templates(tmp_path, {"chat_template": "config"}) == {"default": "config"}
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    assert find_templates(tmp_path, {"chat_template": named}) == {"default": "d", "tool_use": "t"}
    (tmp_path / "chat_template.jinja").write_text("jinja")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("r")
    assert find_templates(tmp_path, {"chat_template": "config"}) == {"default": "jinja", "rag": "r"}


@pytest.mark.parametrize("value", [5, [1], [{"name": "x"}], {"a": 1}])
def test_malformed_sources(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TokenizerError, match="chat_template"):
        find_templates(tmp_path, {"chat_template": value})
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"chat_template\.json"):
        find_templates(tmp_path, {})
