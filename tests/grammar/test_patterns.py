"""Regular expressions and grammars of other notations mean here what they mean there."""

import re
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import ByteTokenizer

from mlx_lm.grammar import CFG, Choice, Regex, compile_constraint
from mlx_lm.grammar.patterns import DATE, python_regex


def accepts(tokenizer: Any, spec: Any, text: str) -> bool:
    data = text.encode()
    return compile_constraint(spec, tokenizer).start().validate([*data, 256]) == len(data) + 1


PATTERNS = [
    r"\d{3}-\d{2}-\d{4}", r"^ab$", r"\Aab\Z", r"a{,3}", r"[[]x[]]", r"[]a]+", r"[^]a]", r"[\w&&a]", r"[+--]",
    r"a/b", r"a\/b", r"(?P<x>a|b)c", r"(?i)ab", r"\D\D", r"[\d/]+", r"a\nb", r"\.\*\[\]", r"x*?y", r"[^\d]",
    r"é+", r"a|^b|c$", r"\\d", r"",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_pythons_re(byte_tokenizer: Any, pattern: str):
    texts = ["", "a", "ab", "AB", "aaa", "aaaa", "123-45-6789", "[x]", "]", "a]", "&", "-", "b", "a/b", "ac", "bc"]
    texts += ["12", "١٢", "xy", "y", "a\nb", ".*[]", "1/2", "éé", "c", "\\d", "x", "a--b", "٣x"]
    for text in texts:
        ours = accepts(byte_tokenizer, Regex(pattern), text)
        theirs = re.fullmatch(pattern, text) is not None
        assert not ours or theirs, text
        assert ours or not theirs or not text.isascii(), text


@given(st.dates())
@settings(max_examples=200)
def test_every_date_and_nothing_else(day: Any):
    assert re.fullmatch(DATE, day.isoformat())
    for text in (f"{day.year:04}-02-30", f"{day.year:04}-13-01", f"{day.year:04}-04-31"):
        assert not re.fullmatch(DATE, text)
    leap = day.year % 4 == 0 and (day.year % 100 != 0 or day.year % 400 == 0)
    assert bool(re.fullmatch(DATE, f"{day.year:04}-02-29")) == leap


@given(st.text(alphabet="ab[]^-&~\\d/.*+?(){},1|", max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_pattern_is_translated_or_refused(pattern: str):
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except re.error:
        return
    python_regex(pattern)


@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda t: t.isprintable() or "\n" in t), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_choices_are_taken_literally(options: list[str]):
    tokenizer = ByteTokenizer()
    for option in options:
        assert accepts(tokenizer, Choice(options), option)
    assert not accepts(tokenizer, Choice(options), "".join(options) + "!")


ARITHMETIC = """
    ?start: sum
    ?sum: product | sum "+" product -> add
    ?product.2: atom | product "*" atom
    !atom: NUMBER | "(" sum ")"
    %import common.NUMBER
    %ignore " "
"""
GBNF = """
root ::= expr # comment
expr ::= term ([-+*/] term)*
term ::= num | "(" expr ")"
num ::= [0-9]+
"""


@pytest.mark.parametrize("grammar", [ARITHMETIC, GBNF])
def test_arithmetic(byte_tokenizer: Any, grammar: str):
    for good in ("1", "(1+2)*3", "((7))"):
        assert accepts(byte_tokenizer, CFG(grammar), good), good
    for bad in ("", "1+", "(1", "a"):
        assert not accepts(byte_tokenizer, CFG(grammar), bad), bad


def test_another_start_rule(byte_tokenizer: Any):
    assert accepts(byte_tokenizer, CFG('line: "x"+', start="line"), "xx")
    assert accepts(byte_tokenizer, CFG('line ::= "x"+', start="line"), "xx")
    assert accepts(byte_tokenizer, CFG('root ::= "y"\nline ::= "x"', start="line"), "x")
