"""POST /v1/completions: the body, the rule of every field, and the works that it asks for.

Contract: `COMPLETIONS.read` gives a `CompletionRequest`, `completion_works` its works: for each prompt in order,
its `n` answers. The replies are made in `completions_reply`.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from ..errors import HTTPError
from ..fields import FieldTable, honoured, refused
from ..work import OutputFormat, Work
from .params import GENERATION_RULES, MAX_CHOICES, Generation, guided_output, sampling_of, stops_of

__all__ = ["COMPLETIONS", "MAX_PROMPTS", "CompletionRequest", "completion_works", "token_or_text_inputs"]

MAX_PROMPTS = 2048  # OpenAI's bound
_MAX_TOKEN = 2**31

Input = str | tuple[int, ...]


def token_or_text_inputs(value: Any) -> list[Input]:
    """A text, a list of token ids, or a list of either -> a list; ValueError for anything else."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("must be a string, a list of strings, a list of token ids, or a list of those")
    if not value:
        raise ValueError("must not be empty")
    if isinstance(value[0], int):
        return [_tokens(value)]
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"at most {MAX_PROMPTS} entries are allowed")
    return [item if isinstance(item, str) else _tokens(item) for item in value]


def _tokens(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("an entry must be a string or a list of token ids that is not empty")
    if not all(type(token) is int and 0 <= token < _MAX_TOKEN for token in value):
        raise ValueError("token ids must be whole numbers from 0")
    return tuple(value)


_TOKEN_LIST = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": _MAX_TOKEN - 1}}
_INPUT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"type": "string"}},
        _TOKEN_LIST,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _TOKEN_LIST},
    ]
}
Inputs = Annotated[Any, BeforeValidator(token_or_text_inputs), WithJsonSchema(_INPUT_SCHEMA)]


class CompletionRequest(Generation):
    """Body of POST /v1/completions."""

    prompt: Inputs
    max_tokens: int | None = Field(None, ge=-1, le=2**31 - 1)
    logprobs: Annotated[int, Field(ge=0, le=20)] | bool | None = None
    echo: bool = False


COMPLETIONS = FieldTable(
    "POST",
    "/v1/completions",
    "What follows a text",
    CompletionRequest,
    {
        **GENERATION_RULES,
        "prompt": honoured(f"A string, a list of token ids, or a list of either; at most {MAX_PROMPTS} prompts."),
        "n": honoured(f"1 to {MAX_CHOICES} answers for each prompt; at most {MAX_PROMPTS} in all."),
        "max_tokens": honoured(
            "Lowered to what the context has room for; without it, up to the operator's limit (not 16). "
            "0 with `echo` scores the prompt alone. -1: no limit."
        ),
        "logprobs": honoured("0 to 20; with `echo` the prompt's tokens are scored too. true (mlx-lm's form) is 0."),
        "echo": honoured("The prompt stands before the answer."),
        "suffix": refused("put it into the prompt, in the form that the model was trained to fill in", ""),
        "add_special_tokens": refused("a text gets the special tokens of its tokenizer; give token ids instead", True),
        "response_format": refused("use guided_json or chat completions", {"type": "text"}),
        "top_logprobs": refused("`logprobs` is the number"),
    },
)


def completion_works(body: CompletionRequest) -> list[Work]:
    """The works of all prompts, `n` for each; HTTPError for values that contradict each other."""
    prompts: list[Input] = body.prompt
    if len(prompts) * body.n > MAX_PROMPTS:
        raise HTTPError(400, f"prompt and n ask for more than {MAX_PROMPTS} answers.", param="n")
    if body.max_tokens == 0 and not body.echo:
        raise HTTPError(400, "max_tokens must be at least 1 (0 needs echo).", param="max_tokens")
    output = guided_output(body) or OutputFormat()
    return [
        Work(
            model=body.model,
            prompt=prompt,
            sampling=sampling_of(body, index),
            max_tokens=None if body.max_tokens == -1 else body.max_tokens,
            stop=stops_of(body),
            output=output,
            top_logprobs=_top(body.logprobs),
            echo=body.echo,
            adapter=body.adapters,
            min_tokens=body.min_tokens,
            ignore_eos=body.ignore_eos,
        )
        for prompt in prompts
        for index in range(body.n)
    ]


def _top(logprobs: int | bool | None) -> int | None:
    if logprobs is None or logprobs is False:
        return None
    return 0 if logprobs is True else logprobs
