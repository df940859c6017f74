"""Python types: how they are written, and that what was written is read back."""

import dataclasses
import datetime as dt
import enum
import sys
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict, Union

import numpy as np
import pydantic
import pytest
from random_model import closing_tokens, random_output

import mlx_lm
from mlx_lm.errors import GrammarError, IncompleteOutputError
from mlx_lm.grammar import CFG, Choice, JsonSchema, Regex, compile_constraint, parse_output


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Weapon(pydantic.BaseModel):
    kind: Literal["sword", "bow"]
    damage: Annotated[int, pydantic.Field(ge=0, le=20)]


class Character(pydantic.BaseModel):
    name: Annotated[str, pydantic.StringConstraints(max_length=10)]
    weapons: Annotated[list[Weapon], pydantic.Field(max_length=2)]
    armor: Color | None = None


class Point(TypedDict):
    x: int
    label: NotRequired[bool]


@dataclasses.dataclass
class Pair:
    left: bool
    right: dt.date


class Tagged(NamedTuple):
    tag: Literal["a"]
    flag: bool


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    good: bool


class Owner(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


def move(to: Literal["north", "south"], steps: int, fast: bool = False) -> None: ...


TYPES: list[Any] = [
    int, float, bool, dt.date, dt.time, dt.datetime, Literal["Paris", "London", 3, None], Color, Level,
    Optional[int], Union[bool, Color, None], int | bool,  # noqa: UP007, UP045
    list[bool], tuple[int, bool], dict[Literal["k"], bool],
    set[Literal["a", "b"]], Point, list[Point], Pair, Tagged, Character, Owner, move,
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=range(len(TYPES)))
def test_what_is_written_is_read(tokenizer: Any, kind: Any):
    grammar = compile_constraint(kind, tokenizer)
    liked = closing_tokens(grammar.vocabulary)
    finished = 0
    for seed in range(12):
        tokens, done = random_output(grammar.start(), grammar.ends, np.random.default_rng(seed), liked)
        if done:
            finished += 1
            parse_output(tokenizer.decode(tokens), kind)
    assert finished


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "-42", -42),
        (float, "1.5e3", 1500.0),
        (bool, "True", True),
        (bool, "false", False),
        (dt.date, "2024-02-29", dt.date(2024, 2, 29)),
        (dt.datetime, "2024-02-29 10:00:00Z", dt.datetime(2024, 2, 29, 10, tzinfo=dt.UTC)),
        (Literal["Paris", 3], "3", 3),
        (Color, "blue", Color.BLUE),
        (Level, "2", Level.HIGH),
        (Optional[int], "None", None),  # noqa: UP045
        (int | bool, "True", True),
        (list[int], "[1, 2]", [1, 2]),
        (str, '"a\\nb"', "a\nb"),
        (Point, '{"x": 1}', {"x": 1}),
        (Pair, '{"left": true, "right": "2020-01-01"}', Pair(True, dt.date(2020, 1, 1))),
        (move, '{"to": "north", "steps": 2}', {"to": "north", "steps": 2, "fast": False}),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        (JsonSchema({}), "3", 3),
        (Regex("a+"), "aa", "aa"),
        (Choice(["x"]), "x", "x"),
        (CFG('start: "x"'), "x", "x"),
    ],
)
def test_values(kind: Any, text: str, value: Any):
    assert parse_output(text, kind) == value


@pytest.mark.parametrize("kind", [int, Color, Character, list[int], JsonSchema({}), dt.date])
def test_text_that_was_cut_off_is_a_typed_error(kind: Any):
    with pytest.raises(IncompleteOutputError) as caught:
        parse_output('{"name": "x', kind)
    assert caught.value.text == '{"name": "x'


def test_a_models_own_validators_speak_for_themselves():
    class Even(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def check(cls, value: int) -> int:
            if value % 2:
                raise ValueError("odd")
            return value

    with pytest.raises(pydantic.ValidationError):
        parse_output('{"n": 3}', Even)


@pytest.mark.parametrize("kind", ["int", object(), lambda *rest: None, np.random.Generator])
def test_what_is_no_type_is_refused(tokenizer: Any, kind: Any):
    with pytest.raises(GrammarError):
        compile_constraint(kind, tokenizer)


def test_discriminated_unions_are_closed_and_exclusive(byte_tokenizer: Any):
    grammar = compile_constraint(Owner, byte_tokenizer)
    good, extra = b'{"pet": {"kind": "cat", "lives": 9}}', b'{"pet": {"kind": "cat", "lives": 9, "x": 1}}'
    assert grammar.start().validate([*good, 256]) == len(good) + 1
    assert grammar.start().validate([*extra, 256]) < len(extra)


def test_public_names_are_light():
    assert mlx_lm.Regex is Regex and mlx_lm.parse_output is parse_output
    assert "pydantic" in sys.modules  # by this test; the package itself imports it only for types
