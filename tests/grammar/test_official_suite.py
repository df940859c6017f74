"""The official JSON-Schema-Test-Suite: what is not refused is enforced exactly, or more narrowly.

Needs the suite of the jsonschema source package, which scripts/fetch_schema_suite.py puts into the cache; skipped
without it. The numbers below are those of docs/structured-output.md.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_lm.errors import GrammarError
from mlx_lm.grammar import JsonSchema, compile_constraint

CACHE = Path(os.environ.get("MLX_LM_TEST_DATA", Path.home() / ".cache" / "mlx_lm" / "test-data"))
SUITE = CACHE / "jsonschema-4.26.0" / "json" / "tests"
DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft4": "http://json-schema.org/draft-04/schema#",
}
# Tests that are enforced: at least so many of the suite's 1,906, 1,864, 1,465, 1,149 and 863.
SUPPORTED = {"draft2020-12": 1343, "draft2019-09": 1322, "draft7": 1100, "draft6": 910, "draft4": 710}


def groups(draft: str) -> Iterator[tuple[str, Any, list[Any]]]:
    for file in sorted((SUITE / draft).rglob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict) and "$schema" not in schema:
                schema = {"$schema": DRAFTS[draft], **schema}
            yield f"{file.name}: {group['description']}", schema, group["tests"]


@pytest.mark.skipif(not SUITE.is_dir(), reason="the suite is not cached; scripts/fetch_schema_suite.py fetches it")
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("draft", DRAFTS)
def test_nothing_invalid_is_accepted(byte_tokenizer: Any, draft: str, closed: bool):
    count: Counter[str] = Counter()
    unsound: list[str] = []
    for name, schema, tests in groups(draft):
        try:
            grammar = compile_constraint(JsonSchema(schema, closed=closed), byte_tokenizer)
        except GrammarError:
            count["refused"] += len(tests)
            continue
        for test in tests:
            data = json.dumps(test["data"], ensure_ascii=False).encode("utf-8", "surrogatepass")
            accepted = grammar.start().validate([*data, 256]) == len(data) + 1
            count["supported"] += 1
            count["too narrow"] += test["valid"] and not accepted
            if accepted and not test["valid"]:
                unsound.append(f"{name}: {test['description']}")
    assert not unsound
    assert count["supported"] >= SUPPORTED[draft] - 10 * closed, count
    assert count["too narrow"] <= 100, count
