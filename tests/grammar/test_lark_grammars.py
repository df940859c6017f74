"""The grammars of the lark package under random logits: what is finished, lark itself parses.

The judges are lark's Earley parsers: with `dynamic_complete`, which considers every split into terminals, so a text of
the grammar and no narrower choice of a lexer; and with `dynamic`, which ends each terminal at its longest match.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import closing_tokens, random_output

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import CFG, compile_constraint

lark = pytest.importorskip("lark")
LEXERS = ("dynamic_complete", "dynamic")
CACHE = Path(os.environ.get("MLX_LM_TEST_DATA", Path.home() / ".cache" / "mlx_lm" / "test-data"))
FOLDER = CACHE / "lark-1.3.1"
# Where a file does not begin with a rule `start`: what its own tests and users begin with.
STARTS = {
    "python.lark": ("file_input", "eval_input"),
    "python2.lark": ("file_input", "eval_input"),
    "ab.lark": ("startab",),
    "leading_underscore_grammar.lark": ("c",),
    "three_rules_using_same_token.lark": ("a",),
    "test_relative_import_of_nested_grammar__grammar_to_import.lark": ("rule_to_import",),
    "test_relative_import_of_nested_grammar__nested_grammar.lark": ("NESTED_TERMINAL",),
    "test_unicode.lark": ("UNICODE",),
    "test.lark": ("NUMBER", "WORD", "WS"),
    "unicode.lark": ("WS_INLINE", "WS"),
    "common.lark": ("SIGNED_INT", "SIGNED_NUMBER", "ESCAPED_STRING", "CNAME", "NEWLINE", "SH_COMMENT", "C_COMMENT"),
}
ADDED = {"templates.lark": '\nstart: sep{"a", ","}\n'}
FILES = sorted(FOLDER.rglob("*.lark"))


def judges(text: str, start: str, file: Path | None = None) -> list[Any]:
    if start.lstrip("_")[0].isupper():
        text, start = f"{text}\njudged: {start}\n", "judged"
    # Terminals that a program makes: no text has them.
    text = text.replace("%declare _INDENT _DEDENT", '_INDENT: "\\uFFFE"\n_DEDENT: "\\uFFFF"')
    source = None if file is None else str(file)
    return [lark.Lark(text, start=start, parser="earley", lexer=lexer, source_path=source) for lexer in LEXERS]


def finished(tokenizer: Any, spec: CFG, parsers: list[Any], seeds: int, limit: int = 60) -> int:
    """How many of `seeds` outputs were finished; each of them every parser accepts."""
    compiled = compile_constraint(spec, tokenizer)
    liked = closing_tokens(compiled.vocabulary) | set(tokenizer.encode("\n*/")) | compiled.ends
    count = 0
    for seed in range(seeds):
        tokens, done = random_output(compiled.start(), compiled.ends, np.random.default_rng(seed), liked, limit)
        if done:
            count += 1
            text = tokenizer.decode(tokens)
            for lexer, parser in zip(LEXERS, parsers, strict=True):
                try:
                    parser.parse(text)
                except lark.exceptions.LarkError as error:
                    raise AssertionError((spec.start, lexer, text, str(error)[:300])) from error
                except RuntimeError as error:  # lark's own check fails where a text is accepted in two ways
                    assert "multiple start symbol items" in str(error)
    return count


every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
needs_files = pytest.mark.skipif(not FILES, reason="scripts/fetch_schema_suite.py fetches the grammars")


def finished_by_start(tokenizer: Any, file: Path, seeds: int, least: int) -> dict[str, int]:
    """`seeds` outputs from all starts of a file together, at least `least` from each; how many were finished."""
    text = file.read_text(encoding="utf-8") + ADDED.get(file.name, "")
    starts = STARTS.get(file.name, ("start",))
    each = max(seeds // len(starts), least)
    return {s: finished(tokenizer, CFG(text, s, file.parent), judges(text, s, file), each) for s in starts}


@needs_files
@every_file
def test_grammars_of_lark(tokenizer: Any, file: Path):
    assert any(finished_by_start(tokenizer, file, seeds=30, least=10).values())


@needs_files
@pytest.mark.slow
@every_file
def test_grammars_of_lark_at_length(tokenizer: Any, file: Path):
    """The number of runs that docs/structured-output.md gives; some output of every start is judged."""
    assert all(finished_by_start(tokenizer, file, seeds=400, least=100).values())


def accepts(tokenizer: Any, spec: CFG, text: str) -> bool:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return compile_constraint(spec, tokenizer).start().validate([*ids, tokenizer.eos_token_id]) == len(ids) + 1


WRITTEN = [
    (r'start: "a".."c"~2..3 "!"i?', ["ab", "abc!"], ["a", "abca", "ad"]),
    (r'!start.2: x -> y' "\n?x: [A | B]\nA.-1: /x+/i\nB: \"\\x41\\\\\"", ["", "xXx", "A\\\\"[:2]], ["A", "xA"]),
    (r"start: S+" "\n" r'S: /".*?(?<!\\)(\\\\)*?"/', ['"a"', r'"\""', r'"\\""b"'], [r'"\"', '"a', r'"\\""']),
    (r"start: C" "\n" r"C: /\/\*(\*(?!\/)|[^*])*\*\//", ["/**/", "/* a */"], ["/*/", "/**/*/"]),
    (r"start: N" "\n" r"N: /(?!if|do)[a-z]{2,}/", ["ab", "id"], ["if", "do", "done", "a"]),
    (r"start: N" "\n" r"N: /a(?=.b)../s", ["axb", "a\nb"], ["axc"]),
    (r"start: N" "\n" r"N: /[a-z]+?(?<=b)/ ", ["b", "aab"], ["ba", "bb", "a"]),
    ('start: li{"x", ","} | li{n, ";"}\nli{item, by}: item (by item)*\nn: /[0-9]/', ["x,x", "1;2"], ["x;x", "1,x"]),
    ('start: deep{"a"}\ndeep{x}: "(" deep{x} ")" | pair{x, x}\npair{x, y}: x y', ["aa", "((aa))"], ["a", "(aa"]),
    ("%import common (INT, WS)\n%ignore WS\nstart: INT+", ["1", "1 22\n3"], ["a"]),
    ('%import common.NUMBER -> N\n%override N: "x"\n%extend N: "y"\nstart: N', ["x", "y"], ["1"]),
    ('start: "a" | block\nblock: ":" _INDENT start\n%declare _INDENT', ["a"], [":", ":a"]),
    ('// a comment\nstart: "a" // another\n    | "b"  # and another\n    |', ["a", "b", ""], ["c"]),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "good", "bad"), WRITTEN)
def test_what_is_accepted(tokenizer: Any, grammar: str, good: list[str], bad: list[str]):
    parsers = [] if "%declare" in grammar else judges(grammar, "start")
    for text in good:
        assert accepts(tokenizer, CFG(grammar), text), text
        for parser in parsers:
            parser.parse(text)
    for text in bad:
        assert not accepts(tokenizer, CFG(grammar), text), text
    if parsers:
        assert finished(tokenizer, CFG(grammar), parsers, 30)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("start: A\n%import .other.A", "folder"),
        ("start: A\n%import python.A", "python"),
        ("start: A\n%import common.NONE -> A", "NONE"),
        ("start: missing", "missing"),
        ("begin: /a/", "no start rule 'start'"),
        ("start: A\nA: /x/ A", "contains itself"),
        ("start: a\na: a /x/", "accepts nothing"),
        ("start: A\n%declare A", "accepts nothing"),
        (r"start: A" "\n" r"A: /(?<!x)y/", "behind its own beginning"),
        (r"start: A" "\n" r"A: /(a)\1/", "groupref"),
        (r"start: A" "\n" r"A: /\bx/", "at in"),
        ("start: grow{/a/}\ngrow{x}: x | grow{pair{x}}\npair{x}: x x", "rules"),
        ("start: A{/a/}\nA{x}: x", "template"),
    ],
)  # fmt: skip
def test_what_is_refused(tokenizer: Any, grammar: str, message: str):
    with pytest.raises(GrammarError, match=message):
        compile_constraint(CFG(grammar), tokenizer)


def test_imports_stay_below_the_folder(tokenizer: Any, tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "parts.lark").write_text('%import .words.WORD\nitem: WORD "." list{WORD}\nlist{x}: x*\n')
    (tmp_path / "sub" / "words.lark").write_text('WORD: "w"\n%ignore " "\n')
    (tmp_path / "circle.lark").write_text("%import .circle.a\n")
    grammar = CFG("%import .sub.parts.item\nstart: item", folder=tmp_path)
    assert accepts(tokenizer, grammar, "w.ww")
    assert not accepts(tokenizer, grammar, "w. w")
    for text in ("%import ..x.A\nstart: A", "%import .nothing.A\nstart: A", "%import .circle.a\nstart: a"):
        with pytest.raises(GrammarError):
            compile_constraint(CFG(text, folder=tmp_path), tokenizer)
