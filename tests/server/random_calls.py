"""A model with random logits under the grammar of calls; tokenizers with and without the markers as special tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_lm.grammar import CFG, compile_constraint, mask_tokens
from mlx_lm.server.calls import FORMS
from mlx_lm.server.calls.literals import Literals
from mlx_lm.server.calls.tagged import NAME, Tags
from mlx_lm.tokenizer import FastTokenizer, TokenizerWrapper

TEXT = 'The quick brown fox jumps over the lazy dog; <b>it\'s</b> "quoted", [1, 2] {a: b} (c) é 你好 😀 \n\n 0.5e3'
# What values are likely to hold that is hard: quotes, line breaks, escapes, what looks like a tag or like JSON.
HARD = (
    *(
        '"',
        "'",
        "\\",
        "\n",
        "\n\n",
        "</",
        "<",
        "]]",
        ">",
        "7",
        "true",
        "null",
        "{",
        "[",
        "é",
        "你",
        "&lt;",
        "<![CDATA[",
    ),
    *("</p", "</parameter", "</tool_call", "<|", "<tool_call>", ", ", "='", ":", " ", "]<]", "<escape", "-1"),
)
MARKERS = re.compile(
    r"<\|[^<>\"']*?\|>|\]<\]minimax\[>\[|<\|\"\|>|<escape>|</?[a-z_:]*tool_call\|?>|\[[A-Z_]+\]|<｜[^>]*>"  # noqa: RUF001
    r"|｜DSML｜|</?TOOLCALL>|</?[a-z_]*arg_[a-z]+>|<\|tool_call>|<(?:start|end)_function_call>"  # noqa: RUF001
)


def texts_of(name: str) -> list[str]:
    """All fixed texts of a form."""
    form = FORMS[name]
    found = [*form.begin, *form.call, *form.between, *form.end, form.tail, *(form.thought or ())]
    if isinstance(form.arguments, Tags):
        found += [form.arguments.opening, form.arguments.closing]
    if isinstance(form.arguments, Literals):
        found.append(form.arguments.notation.quote)
    if form.messages:
        found += [form.messages.answer, *form.messages.stops, *(t for pair in form.messages.reasoning for t in pair)]
    return [one for one in found if isinstance(one, str) and one]


@functools.cache
def tokenizer(marked: bool) -> TokenizerWrapper:
    """A byte-level BPE of few tokens; `marked`: the markers of all formats are special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    special = {"<end>"}
    if marked:
        special |= {mark for name in FORMS for text in texts_of(name) for mark in MARKERS.findall(text)}
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in sorted(special)])
    wrapped = TokenizerWrapper(FastTokenizer(backend, special={"eos_token": "<end>"}))
    if marked:
        wrapped.add_eos_token("<|call|>")
    return wrapped


def closers(name: str) -> list[str]:
    """Texts that end something in a format, for a model that has to come to an end."""
    form = FORMS[name]
    found = ["]]>"] if isinstance(form.arguments, Tags) and form.arguments.cdata else []
    if isinstance(form.arguments, Tags):
        closing = form.arguments.closing
        found += [f"\n{closing}", closing] if NAME not in closing else []
        found += [f"{closing.split(NAME)[0]}"] if NAME in closing else []
    if isinstance(form.arguments, Literals) and form.arguments.notation.quote:
        found.append(form.arguments.notation.quote)
    if form.messages:
        found += [end for _, end in form.messages.reasoning]
    return [*found, '"', "'", "}", "]", ")"]


def random_text(
    grammar: str,
    tokens: TokenizerWrapper,
    rng: np.random.Generator,
    ending: Sequence[str],
    *,
    limit: int = 60,
    first: str = "",
    stop: float = 0.3,
) -> str | None:
    """What a model with random logits writes after `first`; None if it does not come to an end."""
    constraint = compile_constraint(CFG(grammar), tokens).start()
    ends = frozenset(tokens.eos_token_ids)
    written: list[int] = tokens.encode(first, add_special_tokens=False)
    for one in written:
        constraint.accept(one)
    while len(written) < 1500:
        if constraint.done or (constraint.complete and rng.random() < stop):
            return tokens.decode(written)
        tries = list(rng.permutation(list(ending))) if len(written) > limit or rng.random() < 0.1 else []
        if rng.random() < 0.3:
            tries = [*tries, str(rng.choice(HARD))]
        taken: list[int] = []
        for one in tries:
            ids = tokens.encode(one, add_special_tokens=False)
            if constraint.validate(ids) == len(ids):
                taken = ids
                break
        if not taken:
            allowed = [int(one) for one in mask_tokens(constraint.mask()) if int(one) not in ends]
            if not allowed:
                return tokens.decode(written)
            taken = [int(rng.choice(allowed))]
        for one in taken:
            constraint.accept(one)
        written += taken
    return None


def accepts(grammar: str, text: str, tokens: TokenizerWrapper) -> tuple[bool, bool]:
    """(whether the text can be written, whether it may end there)."""
    constraint = compile_constraint(CFG(grammar), tokens).start()
    ids = tokens.encode(text, add_special_tokens=False)
    if constraint.validate(ids) < len(ids):
        return False, False
    for one in ids:
        constraint.accept(one)
    return True, constraint.complete


def tool_schema(required: Sequence[str], /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}
