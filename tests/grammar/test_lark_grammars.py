"""The grammars of the lark package under random logits: what is finished, lark itself parses.

The judge is lark's Earley parser with the lexer that considers every split into terminals: a text of the grammar, and
no narrower choice of a lexer.
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
LEXER = "dynamic_complete"
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


def judge(text: str, start: str, file: Path | None = None) -> Any:
    if start.lstrip("_")[0].isupper():
        text, start = f"{text}\njudged: {start}\n", "judged"
    # Terminals that a program makes: no text has them.
    text = text.replace("%declare _INDENT _DEDENT", '_INDENT: "\\uFFFE"\n_DEDENT: "\\uFFFF"')
    source = None if file is None else str(file)
    return lark.Lark(text, start=start, parser="earley", lexer=LEXER, source_path=source)


def finished(tokenizer: Any, spec: CFG, parser: Any, seeds: int, limit: int = 60) -> int:
    compiled = compile_constraint(spec, tokenizer)
    liked = closing_tokens(compiled.vocabulary) | set(tokenizer.encode("\n")) | compiled.ends
    count = 0
    for seed in range(seeds):
        tokens, done = random_output(compiled.start(), compiled.ends, np.random.default_rng(seed), liked, limit)
        if done:
            count += 1
            text = tokenizer.decode(tokens)
            if not text and spec.start.lstrip("_")[0].islower():
                continue
            try:
                parser.parse(text)
            except lark.exceptions.LarkError as error:
                raise AssertionError((spec.start, text, str(error)[:300])) from error
            except RuntimeError as error:  # lark's own check fails where a text is accepted in two ways
                assert "multiple start symbol items" in str(error)
    return count


@pytest.mark.skipif(not FILES, reason="scripts/fetch_schema_suite.py fetches the grammars")
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_grammars_of_lark(tokenizer: Any, file: Path):
    text = file.read_text(encoding="utf-8") + ADDED.get(file.name, "")
    starts = STARTS.get(file.name, ("start",))
    count = 0
    for start in starts:
        parser = judge(text, start, file)
        count += finished(tokenizer, CFG(text, start, file.parent), parser, max(30 // len(starts), 10))
    assert count


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
    parser = None if "%declare" in grammar else judge(grammar, "start")
    for text in good:
        assert accepts(tokenizer, CFG(grammar), text), text
        if parser and text:
            parser.parse(text)
    for text in bad:
        assert not accepts(tokenizer, CFG(grammar), text), text
    if parser:
        assert finished(tokenizer, CFG(grammar), parser, 30)


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
