"""`may_reason` spares the parsers' import only where they would find no reasoning."""

import pytest

from mlx_lm.tokenizer.markers import find_thinking, may_reason
from mlx_lm.tokenizer.parsers import STYLES, choose_parsers
from mlx_lm.tokenizer.parsers.detect import _RULES

TEMPLATES = sorted(
    {style.start for style in STYLES.values()}
    | {style.end for style in STYLES.values()}
    | {" ".join(needles) for _, needles in _RULES}
    | {"{{ messages }}", "{{ messages }} {{ tools }}"}
)
VOCABULARIES = [
    frozenset[str](),
    *(frozenset((style.start, style.end)) for style in STYLES.values()),
    frozenset(("<|channel>", "<channel|>")),
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_whatever_the_parsers_find_is_hinted_at(template: str) -> None:
    for vocabulary in VOCABULARIES:
        ids = {token: i for i, token in enumerate(sorted(vocabulary))}
        if choose_parsers(template, vocabulary).reasoning is not None:
            assert find_thinking(ids.get, template) or may_reason(ids.get, template), vocabulary


def test_plain_templates_give_no_hint() -> None:
    assert not may_reason({"a": 0}.get, "{{ messages[0].content }} <|im_start|> <tool_call>")
    assert may_reason({"</mm:think>": 0}.get, "")
