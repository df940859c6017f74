"""Outlines 1.3 runs unmodified on mlx_lm: every output type, backends, streaming, batches, reuse of a generator.

Needs the peer packages, and skips without them: pip install outlines==1.3.3 llguidance transformers
(for the xgrammar backend also: pip install xgrammar torch).
"""

import dataclasses
import datetime
import enum
import importlib.util
import json
import re
from typing import Any, Literal, Optional, Union

import mlx.core as mx
import pytest

import mlx_lm
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

pytest.importorskip("transformers", reason="pip install transformers")
outlines = pytest.importorskip("outlines", reason="pip install outlines==1.3.3 llguidance transformers")
pydantic = pytest.importorskip("pydantic")
typing_extensions = pytest.importorskip("typing_extensions")  # its TypedDict is what pydantic takes before Python 3.12

pytestmark = [
    pytest.mark.real_model("smollm2"),
    pytest.mark.filterwarnings("default"),  # other packages' warnings are theirs
]

ARITHMETIC = """
?start: sum
?sum: product | sum "+" product | sum "-" product
?product: atom | product "*" atom | product "/" atom
?atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,4}/
"""


class Weapon(enum.Enum):
    sword = "sword"
    axe = "axe"


class Character(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int
    weapon: Weapon


@dataclasses.dataclass
class Point:
    x: bool
    y: Literal["left", "right"]


class Movie(typing_extensions.TypedDict):
    title: Literal["Alien", "Brazil"]
    seen: bool


def turn(on: bool, side: Literal["left", "right"]) -> None:
    """A signature as output type."""


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, TokenizerWrapper]:
    return mlx_lm.load("smollm2")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model(loaded: tuple[Any, TokenizerWrapper]) -> Any:
    return outlines.from_mlxlm(*loaded)


def matches(pattern: str) -> Any:
    return lambda text: re.fullmatch(pattern, text) is not None


def is_json(check: Any) -> Any:
    return lambda text: check(json.loads(text))


def is_calendar(parse: Any, form: str) -> Any:
    def check(text: str) -> bool:
        try:
            parse(text, form)
        except ValueError:  # Outlines' pattern allows 2024-02-31
            return re.fullmatch(r"[\d: -]+", text) is not None
        return True

    return check


STRP = datetime.datetime.strptime
FLOAT = r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?"
TYPES = {
    "int": (int, matches(r"[+-]?(0|[1-9]\d*)")),
    "float": (float, matches(FLOAT)),
    "bool": (bool, matches("True|False")),
    "date": (datetime.date, is_calendar(STRP, "%Y-%m-%d")),
    "time": (datetime.time, is_calendar(STRP, "%H:%M:%S")),
    "datetime": (datetime.datetime, is_calendar(STRP, "%Y-%m-%d %H:%M:%S")),
    "literal": (Literal["Paris", "London", "Rome"], matches("Paris|London|Rome")),
    "enum": (Weapon, matches("sword|axe")),
    "union": (Union[bool, Literal["unknown"]], matches("True|False|unknown")),  # noqa: UP007
    "optional": (Optional[bool], matches("True|False|None")),  # noqa: UP045
    "tuple": (tuple[bool, Literal["a", "b"]], matches(r"\((True|False), *\"?'?(a|b)'?\"?\)")),
    "dataclass": (Point, is_json(lambda v: Point(**v).y in ("left", "right"))),
    "typed dict": (Movie, is_json(lambda v: v["title"] in ("Alien", "Brazil") and isinstance(v["seen"], bool))),
    "pydantic": (Character, is_json(lambda v: Character(**v).age is not None)),
    "signature": (turn, is_json(lambda v: isinstance(v["on"], bool) and v["side"] in ("left", "right"))),
    "regex": (outlines.types.Regex(r"\d{3}-\d{2}-\d{4}"), matches(r"\d{3}-\d{2}-\d{4}")),
    "choice": (outlines.types.Choice(["red", "green"]), matches("red|green")),
    "json schema": (
        outlines.types.JsonSchema('{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"]}'),
        is_json(lambda v: isinstance(v["a"], bool)),
    ),
    "terms": (outlines.types.dsl.either("yes", "no") + outlines.types.digit.exactly(2), matches(r"(yes|no)\d\d")),
    "uuid4": (outlines.types.uuid4, matches(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")),
    "ipv4": (outlines.types.ipv4, matches(r"(\d{1,3}\.){3}\d{1,3}")),
    "cfg": (outlines.types.CFG(ARITHMETIC), matches(r"[0-9+*/()-]+")),
}
OPEN_ENDED = {  # may not finish within the tokens given here: the text is a beginning
    "int": r"[+-]?\d*",
    "float": r"[+-]?[\d.eE+-]*",
    "cfg": r"[0-9+*/()-]*",
}


@pytest.mark.parametrize("name", TYPES)
def test_output_type(model: Any, name: str) -> None:
    output_type, valid = TYPES[name]
    text = model("Name one thing, any thing.", output_type, max_tokens=48)
    assert isinstance(text, str)
    assert valid(text) or (name in OPEN_ENDED and re.fullmatch(OPEN_ENDED[name], text)), text


@pytest.mark.parametrize(
    ("output_type", "beginning"), [(str, '"'), (list[int], r"\["), (dict[str, int], r"\{"), (dict, r"[{\[\"\d-]")]
)
def test_open_types_begin_as_they_must(model: Any, output_type: Any, beginning: str) -> None:
    assert re.match(beginning, model("Numbers:", output_type, max_tokens=12).lstrip())


def test_an_unlimited_run_of_a_bounded_type_ends(model: Any) -> None:
    assert Character(**json.loads(model("Create a character.", Character))).weapon in Weapon


@pytest.mark.parametrize("backend", ["outlines_core", "llguidance", "xgrammar"])
@pytest.mark.parametrize("name", ["pydantic", "regex", "cfg"])
def test_backend(model: Any, backend: str, name: str) -> None:
    if backend == "outlines_core" and name == "cfg":
        pytest.skip("outlines_core has no context-free grammars")
    if backend == "xgrammar":
        for module in ("xgrammar", "torch"):
            if importlib.util.find_spec(module) is None:
                pytest.skip("pip install xgrammar torch")
    output_type, valid = TYPES[name]
    if backend == "xgrammar" and name == "cfg":
        output_type, valid = outlines.types.CFG('root ::= "yes" | "no"'), matches("yes|no")
    text = model("Answer:", output_type, backend=backend, max_tokens=200)
    assert valid(text) or re.fullmatch(OPEN_ENDED.get(name, "!"), text), text


def test_stream_equals_the_whole(model: Any) -> None:
    generator = outlines.Generator(model, Character)
    whole = generator("Create a character.", max_tokens=64)
    pieces = list(generator.stream("Create a character.", max_tokens=64))
    assert len(pieces) > 5 and "".join(pieces) == whole
    assert generator("Create a character.", max_tokens=64) == whole  # used again
    assert Character(**json.loads(whole))


def test_plain_text_stream_and_batch(model: Any) -> None:
    whole = model("The capital of France?", max_tokens=8)
    assert whole and "".join(model.stream("The capital of France?", max_tokens=8)) == whole
    texts = model.batch(["The capital of France?", "One, two,"], max_tokens=8)
    assert texts[0] == whole and len(texts) == 2
    with pytest.raises(NotImplementedError):
        model.batch(["a", "b"], int)


def test_chat_input(model: Any) -> None:
    chat = outlines.inputs.Chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    assert model(chat, Literal["Hello", "Bye"]) in ("Hello", "Bye")


def test_unknown_argument_is_a_type_error(model: Any) -> None:
    with pytest.raises(TypeError):
        model("a", foo="bar")


def test_sampler_with_structure(model: Any) -> None:
    mx.random.seed(3)
    sampler = make_sampler(1.0, 0.9)
    ssn = outlines.types.Regex(r"\d{3}-\d{2}-\d{4}")
    texts = {model("A number:", ssn, sampler=sampler) for _ in range(4)}
    assert len(texts) > 1 and all(re.fullmatch(r"\d{3}-\d{2}-\d{4}", text) for text in texts)


def test_processor_in_a_batch_of_ours(model: Any, loaded: tuple[Any, TokenizerWrapper]) -> None:
    """One processor for each sequence, as continuous batching needs; equal to each alone."""
    from mlx_lm.generate import BatchGenerator

    prompts = [loaded[1].encode(text) for text in ("A number:", "My name is Ann and my number is")]
    ssn = outlines.types.Regex(r"\d{3}-\d{2}-\d{4}")
    alone = [
        mlx_lm.generate(*loaded, p, logits_processors=[outlines.Generator(model, ssn).logits_processor])
        for p in prompts
    ]
    batch = BatchGenerator(loaded[0], stop_tokens=[(t,) for t in loaded[1].eos_token_ids])
    own = [[outlines.Generator(model, ssn).logits_processor] for _ in prompts]
    index = {uid: i for i, uid in enumerate(batch.insert(prompts, logits_processors=own))}
    tokens: list[list[int]] = [[], []]
    while results := batch.next_generated():
        for result in results:
            if result.token not in loaded[1].eos_token_ids:
                tokens[index[result.uid]].append(result.token)
    assert [loaded[1].decode(ids) for ids in tokens] == alone
    assert all(re.fullmatch(r"\d{3}-\d{2}-\d{4}", text) for text in alone)


def test_bare_transformers_tokenizer(loaded: tuple[Any, TokenizerWrapper], model: Any) -> None:
    """All but context-free grammars: Outlines hands llguidance the inner tokenizer of what it was given."""
    bare = loaded[1]._tokenizer
    assert not isinstance(bare, TokenizerWrapper)
    other = outlines.from_mlxlm(loaded[0], bare)
    question = "Is the sky blue?"
    assert other(question, Weapon) == model(question, Weapon)
    assert other(question, max_tokens=6) == model(question, max_tokens=6)


def test_classes_that_outlines_names(loaded: tuple[Any, TokenizerWrapper]) -> None:
    import mlx_lm.models.llama

    assert isinstance(loaded[0], mlx_lm.models.llama.Model)
    assert isinstance(loaded[1], mlx_lm.tokenizer_utils.TokenizerWrapper)
