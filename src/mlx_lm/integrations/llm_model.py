"""One model as `llm` runs it: options, prompts, answers, usage.

Contract: by default an answer ends where the model ends it, or with the model's context. When a limit cuts it, the
user is told on stderr and `response_json["finish_reason"]` is "length". The states of the last turns are kept, so that
`llm chat` computes only what is new. MLX and the model are loaded with the first prompt.
"""

import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import llm  # type: ignore[import-not-found]
from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..errors import RequestError, UnsupportedError
from .llm_messages import Answer, chat_messages, function_tools, plain_text

__all__ = ["MlxModel", "MlxOptions"]

# What llm-mlx samples with when nothing is said.
_TEMPERATURE, _TOP_P, _MIN_P = 0.8, 0.9, 0.1
_KEPT_TURNS = 2


class MlxOptions(llm.Options):
    """What `-o NAME VALUE` sets."""

    max_tokens: int | None = Field(default=None, ge=-1, description="Most tokens of an answer (default: no limit)")
    unlimited: bool | None = Field(default=None, description="No limit of tokens, whatever max_tokens says")
    temperature: float | None = Field(default=None, ge=0, description="Sampling temperature (default: 0.8)")
    top_p: float | None = Field(default=None, ge=0, le=1, description="Sampling top-p (default: 0.9)")
    min_p: float | None = Field(default=None, ge=0, le=1, description="Sampling min-p (default: 0.1)")
    top_k: int | None = Field(default=None, ge=0, description="Sample among the k likeliest tokens; 0: all")
    min_tokens_to_keep: int | None = Field(default=None, ge=1, description="Tokens that min-p always keeps")
    seed: int | None = Field(default=None, ge=0, description="Seed of the sampling")
    prefill: str | None = Field(default=None, description="Text that the answer begins with")
    stop: str | None = Field(default=None, min_length=1, description="Text that ends the answer")
    repetition_penalty: float | None = Field(default=None, gt=0, description="Makes repetitions rarer; 1: off")
    presence_penalty: float | None = Field(default=None, description="Taken once from tokens that came already")
    frequency_penalty: float | None = Field(default=None, description="Taken for each time that a token came already")
    thinking: bool | None = Field(default=None, description="Reasoning before the answer, where the model can")
    kv_bits: int | None = Field(default=None, description="Keep keys and values in 2, 3, 4, 5, 6 or 8 bits")
    max_kv_size: int | None = Field(default=None, description="Keep only that many of the latest tokens")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """Of an unknown option, says which ones there are; `llm` shows the error under the option's name."""
        given = values if isinstance(values, dict) else {}
        known = list(cls.model_fields)
        errors = [_unknown(name, value, known) for name, value in given.items() if name not in known]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return values


def _unknown(name: str, value: Any, known: Sequence[str]) -> InitErrorDetails:
    near = difflib.get_close_matches(name, known, n=1)
    names = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    error = PydanticCustomError("unknown_option", "No such option; {names}", {"names": names})
    return InitErrorDetails(type=error, loc=(name,), input=value)


class MlxModel(llm.Model):
    """A model of this machine; `model_id` is anything that `mlx_lm.load` takes."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    Options = MlxOptions

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self._loaded: tuple[Any, Any] | None = None
        self._turns: Any = None  # LRUPromptCache

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[Any]:
        """Called by `llm`: the pieces of the answer.

        Raises:
            RequestError: an option is out of range, or the conversation does not fit the model.
            UnsupportedError: the model has no form for tools, or options exclude each other.
        """
        from ..engine import context_length, encode_prompt, stream_generate
        from ..sampling import make_logits_processors

        options = prompt.options
        limit = _limit(options)
        model, tokenizer = self._load()
        tools = function_tools(prompt.tools)
        text = _prompt_text(tokenizer, chat_messages(prompt, conversation), tools, options)
        if tokenizer.has_chat_template:
            tokens = list(tokenizer.encode(text, add_special_tokens=False))
        else:
            tokens = encode_prompt(tokenizer, text)
        kv = {"kv_bits": options.kv_bits, "max_kv_size": options.max_kv_size}
        states, rest = self._turns.fetch_nearest_cache(tuple(kv.values()), tokens)
        states = states if states is not None else []
        answer = Answer(_parser(tokenizer, tools, text), response)
        if options.prefill:
            yield from answer.add(options.prefill)
        generated: list[int] = []
        last = None
        for last in stream_generate(
            model,
            tokenizer,
            rest,
            max_tokens=limit,
            stop=options.stop,
            sampler=_sampler(options),
            logits_processors=make_logits_processors(
                repetition_penalty=options.repetition_penalty,
                presence_penalty=options.presence_penalty,
                frequency_penalty=options.frequency_penalty,
            ),
            prompt_cache=states,
            history=tokens[: len(tokens) - len(rest)],
            **self._structure(tokenizer, prompt, tokens, limit),
            **{name: value for name, value in kv.items() if value is not None},
        ):
            generated.append(last.token)
            yield from answer.add(last.text)
        yield from answer.finish()
        held = max((state.offset for state in states), default=0)
        self._turns.insert_cache(tuple(kv.values()), [*tokens, *generated][:held], states)
        if last is None:  # the engine gives at least one token, or raises
            return
        cached = len(tokens) - len(rest)
        response.set_usage(
            input=len(tokens), output=len(generated), details={"cached_tokens": cached} if cached else None
        )
        response.response_json = {
            "prompt_tps": last.prompt_tps,
            "generation_tps": last.generation_tps,
            "peak_memory": last.peak_memory,
            "finish_reason": last.finish_reason,
        }
        if last.finish_reason == "length":
            _tell_cut(limit, len(generated), context_length(model))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from ..engine import LRUPromptCache
            from ..models.load import load

            model, tokenizer = load(self.model_id)[:2]
            self._loaded = (model, tokenizer)
            self._turns = LRUPromptCache(max_size=_KEPT_TURNS)
        return self._loaded

    @staticmethod
    def _structure(tokenizer: Any, prompt: Any, tokens: list[int], limit: int | None) -> dict[str, Any]:
        """The arguments that make the answer follow the prompt's schema."""
        if not prompt.schema:
            return {}
        if prompt.options.prefill:
            raise UnsupportedError("prefill cannot be combined with a schema: the schema says how the answer begins.")
        if prompt.options.stop:
            raise UnsupportedError("stop cannot be combined with a schema: it could cut the answer short.")
        if prompt.tools:
            raise UnsupportedError("Tools cannot be combined with a schema: it leaves no room for calls.")
        from ..engine.structured import answer_constraint
        from ..grammar import JsonSchema

        # Of the whole prompt: whether it opens reasoning may stand in the part that is computed already.
        return {"constraint": answer_constraint(JsonSchema(prompt.schema), tokenizer, tokens, max_tokens=limit)}


def _limit(options: Any) -> int | None:
    """The most tokens of the answer; None for no limit."""
    if options.max_tokens == 0:
        raise RequestError("max_tokens must be at least 1; leave it out, or set -o unlimited true, for no limit.")
    return None if options.unlimited or options.max_tokens == -1 else options.max_tokens


def _prompt_text(tokenizer: Any, messages: list[dict[str, Any]], tools: Sequence[Any], options: Any) -> str:
    """The conversation as the model reads it, up to the answer or up to the end of its prefill."""
    if not messages:
        raise RequestError("There is nothing to answer: give a prompt.")
    if tools and not tokenizer.has_tool_calling:
        raise UnsupportedError("This model's chat template has no known form of tool calls; leave out the tools.")
    if not tokenizer.has_chat_template:
        return plain_text(messages) + (options.prefill or "")
    variables = {} if options.thinking is None else {"enable_thinking": options.thinking, "thinking": options.thinking}
    if options.prefill:
        messages = [*messages, {"role": "assistant", "content": options.prefill}]
    return tokenizer.apply_chat_template(
        messages,
        tools=list(tools) or None,
        add_generation_prompt=not options.prefill,
        continue_final_message=bool(options.prefill),
        tokenize=False,
        **variables,
    )


def _parser(tokenizer: Any, tools: Sequence[Any], text: str) -> Any:
    from dataclasses import replace

    from ..tokenizer.parsers import StreamParser, prompt_opens_thinking

    choice = tokenizer.parsers
    # Formats with channels write every message in the form of their calls: their reader stays.
    if not tools and choice.tools is not None and choice.tools.message is None:
        choice = replace(choice, tools=None)
    opened = choice.reasoning is not None and prompt_opens_thinking(text, choice.reasoning.start)
    return StreamParser(choice, tools=list(tools) or None, in_reasoning=opened, stream_arguments=False)


def _sampler(options: Any) -> Any:
    from ..sampling import make_sampler

    def chosen(value: Any, default: Any) -> Any:
        return default if value is None else value

    return make_sampler(
        chosen(options.temperature, _TEMPERATURE),
        chosen(options.top_p, _TOP_P),
        chosen(options.min_p, _MIN_P),
        chosen(options.min_tokens_to_keep, 1),
        chosen(options.top_k, 0),
        seed=options.seed,
    )


def _tell_cut(limit: int | None, count: int, context: int | None) -> None:
    if limit is not None and count >= limit:
        line = f"The answer was cut at max_tokens={limit}; -o unlimited true lets it go on to its end."
    else:
        line = f"The answer was cut: the model's context{f' of {context:,} tokens' if context else ''} is full."
    print(f"\n{line}", file=sys.stderr, flush=True)
