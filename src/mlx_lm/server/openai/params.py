"""What chat completions, completions and responses have in common: sampling, stops, limits, and their rules.

Ranges are OpenAI's where OpenAI has the field, and `mlx_lm.sampling`'s where mlx-lm added it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ...errors import RequestError
from ..errors import HTTPError
from ..fields import Body, Rule, honoured, ignored, refused
from ..work import OutputFormat, SamplingSpec

__all__ = [
    "GENERATION_RULES",
    "MAX_CHOICES",
    "Generation",
    "Probability",
    "StreamOptions",
    "StructuredOutputs",
    "guided_output",
    "sampling_of",
    "stops_of",
]

# OpenAI's bound on `n`.
MAX_CHOICES = 128
_MAX_STOPS = 16
_SEED_RANGE = 2**63

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Window = Annotated[int, Field(ge=0, le=2**31 - 1)]


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="A last chunk carries the usage.")


class StructuredOutputs(Body):
    """vLLM's field for constraints; at most one is set."""

    json_schema: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Generation(Body):
    """Fields of every endpoint that writes text."""

    model: str | None = Field(None, max_length=512, description="A model's id or alias; the default model without it.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(None, ge=0)
    top_p: Probability | None = None
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: Probability | None = None
    typical_p: Probability | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    repetition_penalty: float | None = Field(None, ge=0)
    repetition_context_size: Window | None = None
    presence_penalty: Penalty | None = None
    presence_context_size: Window | None = None
    frequency_penalty: Penalty | None = None
    frequency_context_size: Window | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=4096)
    seed: int | None = Field(None, ge=-_SEED_RANGE, lt=2 * _SEED_RANGE)
    stop: str | list[str] | None = None
    min_tokens: int = Field(0, ge=0, le=2**31 - 1)
    ignore_eos: bool = False
    adapters: str | None = Field(None, max_length=512)
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > _MAX_STOPS:
            raise ValueError(f"at most {_MAX_STOPS} stop strings are allowed")
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        return value


_OPERATOR = "the operator decides it"
GENERATION_RULES: dict[str, Rule] = {
    "model": honoured("An id or alias of /v1/models; without it the default model answers."),
    "stream": honoured("Server-sent events, ended by `[DONE]`."),
    "stream_options.include_usage": honoured("The last chunk carries the usage."),
    "stream_options.include_obfuscation": ignored("Nothing is padded: it would only cost bandwidth on a local server."),
    "stream_options.continuous_usage_stats": refused("usage comes once, at the end", False),
    "n": honoured(f"1 to {MAX_CHOICES} answers, each with its own seed (`seed`, `seed + 1`, ...)."),
    "temperature": honoured("0 or more; 0 is greedy. Without it the operator's default applies."),
    "top_p": honoured("0 to 1."),
    "top_k": honoured("mlx-lm's; 0 or -1 is off."),
    "min_p": honoured("mlx-lm's; 0 to 1."),
    "typical_p": honoured("0 to 1."),
    "xtc_probability": honoured("mlx-lm's; 0 to 1."),
    "xtc_threshold": honoured("mlx-lm's; 0 to 1."),
    "repetition_penalty": honoured("mlx-lm's; 0 or 1 is off."),
    "repetition_context_size": honoured("mlx-lm's; the latest tokens that count, 0 for all."),
    "presence_penalty": honoured("-2 to 2."),
    "presence_context_size": honoured("mlx-lm's; as `repetition_context_size`."),
    "frequency_penalty": honoured("-2 to 2."),
    "frequency_context_size": honoured("mlx-lm's; as `repetition_context_size`."),
    "logit_bias": honoured("Token id -> -100 to 100; ids outside the vocabulary are refused."),
    "seed": honoured("Any 64-bit integer; the answer then depends on nothing else that runs."),
    "stop": honoured(f"A string or up to {_MAX_STOPS}; found wherever token borders lie, and not part of the answer."),
    "min_tokens": honoured("vLLM's; the answer does not end by itself before."),
    "ignore_eos": honoured("vLLM's; end tokens do not end the answer."),
    "adapters": honoured("mlx-lm's; a LoRA adapter by the name that the operator gave it, never a path."),
    "guided_json": honoured("vLLM's; a JSON schema, as an object or as text."),
    "guided_regex": honoured("vLLM's; a regular expression for the whole answer."),
    "guided_choice": honoured("vLLM's; the answer is one of these strings."),
    "guided_grammar": honoured("vLLM's; a Lark grammar."),
    "structured_outputs.json": honoured("vLLM's; as `guided_json`."),
    "structured_outputs.regex": honoured("vLLM's; as `guided_regex`."),
    "structured_outputs.choice": honoured("vLLM's; as `guided_choice`."),
    "structured_outputs.grammar": honoured("vLLM's; as `guided_grammar`."),
    "structured_outputs.json_object": honoured("vLLM's; any JSON object."),
    "structured_outputs.structural_tag": refused("use tools or a grammar"),
    "structured_outputs.whitespace_pattern": refused("white space runs are bounded already"),
    "guided_decoding_backend": ignored("There is one grammar engine."),
    "guided_whitespace_pattern": refused("white space runs are bounded already"),
    "draft_model": refused(_OPERATOR),
    "num_draft_tokens": refused(_OPERATOR),
    "best_of": refused("ask for `n` answers and choose", 1),
    "use_beam_search": refused("answers are sampled", False),
    "length_penalty": refused("it belongs to beam search", 1.0),
    "stop_token_ids": refused("use `stop`", []),
    "include_stop_str_in_output": refused("a stop string is never part of the answer", False),
    "skip_special_tokens": refused("special tokens that a model writes are shown", False),
    "prompt_logprobs": refused("use /v1/completions with `echo` and `logprobs`", False),
    "return_tokens_as_token_ids": refused("logprobs name tokens by their text", False),
    "priority": refused(_OPERATOR, 0),
    "cache_salt": refused("the prefix cache is already kept apart by API key"),
    "service_tier": ignored("There is one tier."),
    "user": ignored("It changes no answer; API keys tell clients apart."),
    "safety_identifier": ignored("It changes no answer."),
    "prompt_cache_key": ignored("Prefixes are found by their content."),
    "prompt_cache_retention": ignored("The operator's cache budget decides."),
    "prompt_cache_options": ignored("Prefixes are found by their content."),
    "moderation": refused("there is no moderation model"),
}


def sampling_of(body: Generation, choice: int = 0) -> SamplingSpec:
    """How the tokens of answer number `choice` are chosen."""
    bias = None if body.logit_bias is None else {_token_id(key): value for key, value in body.logit_bias.items()}
    return SamplingSpec(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(body.top_k, 0),
        min_p=body.min_p,
        typical_p=body.typical_p,
        xtc_probability=body.xtc_probability,
        xtc_threshold=body.xtc_threshold,
        repetition_penalty=1.0 if body.repetition_penalty == 0 else body.repetition_penalty,
        repetition_context_size=body.repetition_context_size,
        presence_penalty=body.presence_penalty,
        presence_context_size=body.presence_context_size,
        frequency_penalty=body.frequency_penalty,
        frequency_context_size=body.frequency_context_size,
        logit_bias=bias,
        seed=None if body.seed is None else (body.seed + choice) % _SEED_RANGE,
    )


def stops_of(body: Generation) -> tuple[str, ...]:
    """The stop strings."""
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())


def guided_output(body: Generation) -> OutputFormat | None:
    """The constraint of the `guided_*` and `structured_outputs` fields; HTTPError when there are several."""
    outputs = body.structured_outputs or StructuredOutputs.model_validate({})
    found: list[tuple[str, OutputFormat]] = []
    for name, schema in (("guided_json", body.guided_json), ("structured_outputs.json", outputs.json_schema)):
        if schema is not None:
            found.append((name, OutputFormat("json_schema", _schema(name, schema))))
    plain: tuple[tuple[str, Literal["regex", "choice", "grammar"], str | list[str] | None], ...] = (
        ("guided_regex", "regex", body.guided_regex),
        ("guided_choice", "choice", body.guided_choice),
        ("guided_grammar", "grammar", body.guided_grammar),
        ("structured_outputs.regex", "regex", outputs.regex),
        ("structured_outputs.choice", "choice", outputs.choice),
        ("structured_outputs.grammar", "grammar", outputs.grammar),
    )
    for name, kind, value in plain:
        if value is not None:
            if not value:
                raise HTTPError(400, f"{name} must not be empty.", param=name)
            found.append((name, OutputFormat(kind, tuple(value) if isinstance(value, list) else value)))
    if outputs.json_object:
        found.append(("structured_outputs.json_object", OutputFormat("json_object")))
    if len(found) > 1:
        raise HTTPError(400, f"{found[1][0]} and {found[0][0]} cannot both be given.", param=found[1][0])
    return found[0][1] if found else None


def _schema(name: str, schema: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(schema, dict):
        return schema
    from ..body import parse_json

    try:
        return parse_json(schema.encode())
    except RequestError:
        raise HTTPError(400, f"{name} must be a JSON schema: an object, or its JSON text.", param=name) from None


def _token_id(key: str) -> int:
    if key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < 2**31:
        return int(key)
    raise HTTPError(400, f"logit_bias has {key[:40]!r}, which is not a token id.", param="logit_bias")
