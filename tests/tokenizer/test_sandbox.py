"""Hostile chat templates: escapes are refused, bombs are stopped."""

import time
from functools import partial

import pytest

from mlx_lm.errors import ChatTemplateError
from mlx_lm.tokenizer.chat_template import ChatTemplate
from mlx_lm.tokenizer.sandbox import Budget

MESSAGES = [{"role": "user", "content": "hello"}]

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ().__class__.__bases__[0].__subclasses__() }}",
    "{{ [].__class__.__base__.__subclasses__()[0] }}",
    "{{ {}.__class__.__mro__ }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ range.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__code__ }}",
    "{{ strftime_now.__globals__.sys }}",
    "{{ strftime_now.__closure__ }}",
    "{{ (''|attr('__class__')) }}",
    "{{ messages|attr('__class__')|attr('__base__') }}",
    "{{ ''['__class__'] }}",
    "{{ ''['__cl' ~ 'ass__']['__mro__'] }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ [''|string]|map(attribute='__class__.__mro__')|list }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "{{ ['{0.__class__}'.format]|first|string }}",
    "{{ messages.append({'role': 'system'}) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('content') }}",
    "{{ messages[0].clear() }}",
    "{{ messages.__setitem__(0, 1) }}",
    "{{ dict.update(messages[0], {'role': 'x'}) }}",
    "{{ dict.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ loop.__class__ }}{{ get_flashed_messages.__globals__ }}",
    "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._environment.globals }}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% from '/etc/passwd' import x %}",
    "{{ ((messages|map('upper')).gi_frame.f_globals) }}",
    "{{ config.__class__.__init__.__globals__ }}",
    "{{ request.application.__globals__.__builtins__ }}",
    "{{ __import__('os').system('id') }}",
    "{{ open('/etc/passwd').read() }}",
    "{{ eval('1+1') }}",
    "{% set ns = namespace() %}{{ ns.__class__.__init__ }}",
    "{% set ns = namespace() %}{{ ns._Namespace__attrs }}",
    "{{ context.environment }}{{ environment.globals.x }}",
    "{{ 'a'.encode().__class__ }}",
    "{{ 'a'.translate({97: 'b'}) }}",
]

BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10 ** (10 ** 9) }}",
    "{% set ns = namespace(x=9) %}{% for i in range(40) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{{ range(10**9)|list }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% if false %}{% endif %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set s = namespace(x=1) %}{% for i in range(60) %}{% set s.x = {1: s.x, 2: s.x} %}{% endfor %}{{ s.x|tojson }}",
    "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'|indent(10**9, true) }}",
    "{{ [1]|batch(10**9, 0)|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ ('{0}' * 1000).format('a' * 1000000) }}",
    "{{ ('a' * 1000000).replace('', 'b' * 1000) }}",
    "{{ ('a' * 1000000)|replace('a', 'b' * 1000) }}",
    "{{ ('x' * 1000000).join(range(9999)|map('string')|list) }}",
    "{{ range(9999)|map('string')|list|join('x' * 1000000) }}",
    "{{ ([range(99999)] * 999)|map('list')|list|length }}",
    "{{ ([range(99999)] * 99)|map('list')|sum(start=[])|length }}",
    "{{ 1|round(10**9, 'ceil') }}",
    "{{ {'a': 1}|tojson(indent=10**9) }}",
    "{{ ('a' * 7000000)|wordwrap(1)|length }}",
    "{{ (1).to_bytes(10**9) }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "{% set x = 'a' * 7000000 %}{% for i in range(99999) %}{% set y = x.upper() %}{% endfor %}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{% if 1 %}" * 5000,
    "{{ 'a' }}" * 100000,
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_show_nothing(source: str) -> None:
    """Either the sandbox refuses, or the expression is undefined and prints nothing; the data stays as it is."""
    messages = [dict(MESSAGES[0])]
    try:
        text = ChatTemplate(source).render(messages)
    except ChatTemplateError:
        text = ""
    assert messages == MESSAGES
    for leak in ("class", "object", "module", "root:", "uid=", "function", "environment", "frame"):
        assert leak not in text, text


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_bombs_stop(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fifth of the usual time, to keep the tests fast; one bomb below has the usual time."""
    monkeypatch.setattr("mlx_lm.tokenizer.chat_template.Budget", partial(Budget, seconds=0.2))
    start = time.thread_time()
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render(MESSAGES)
    assert time.thread_time() - start < 1.2


def test_endless_loop_stops_after_a_second() -> None:
    start = time.thread_time()
    with pytest.raises(ChatTemplateError, match=r"ran for more than 1\.0 s"):
        ChatTemplate("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}").render(MESSAGES)
    assert time.thread_time() - start < 1.5


def test_large_conversations_are_no_bomb() -> None:
    content = "word " * 400_000
    template = ChatTemplate(
        "{% for m in messages %}{{ m.role ~ ': ' + m.content|trim }}{% endfor %}{{ messages|tojson }}"
    )
    text = template.render([{"role": "user", "content": content}] * 3)
    assert len(text) > 6 * len(content)


def test_many_messages_are_no_bomb() -> None:
    template = ChatTemplate(
        "{% for m in messages %}{% if loop.last or not loop.first %}{{ m.role }}"
        "{% set x = m.content.split('</think>') %}{{ x[-1]|trim }}{% endif %}{% endfor %}"
    )
    assert template.render(MESSAGES * 5_000).count("hello") == 4_999
