"""lm-eval's view of a model of this package, and a run of its tasks.

Contract: `HarnessModel` is an `lm_eval.api.model.LM` over a loaded model: likelihoods by `scoring`, texts by `answers`.
`run_tasks` evaluates and returns lm-eval's results. Importing this module imports lm-eval: only the command does.
"""

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lm_eval  # type: ignore[import-not-found]
import mlx.nn as nn
from lm_eval.api.model import TemplateLM  # type: ignore[import-not-found]
from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]
from lm_eval.utils import (  # type: ignore[import-not-found]
    get_rolling_token_windows,
    make_disjoint_window,
)

from ..engine import context_length, encode_prompt
from ..errors import MLXLMError, RequestError
from ..sampling import Sampler, greedy_sampler, make_sampler
from .answers import Question, write_answers
from .scoring import score_continuations

__all__ = ["HarnessModel", "Settings", "run_tasks"]

_log = logging.getLogger(__name__)
_MAX_TOKENS = 8192  # of an answer, where neither the user nor the task says
_DEFAULT_CONTEXT = 4096  # of rolling windows, for models that declare none
_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

Progress = Callable[[str, int, int], object]  # (what is done, how many, of how many)


class Settings:
    """How answers are written.

    Args:
        batch_size: texts computed together.
        max_tokens: of an answer; None: what the task says, else 8192.
        temperature, top_p, top_k: of the sampling; None: what the task says, else greedy.
        seed: of the sampling.
        chat_template: prompts are chats, whose template sets the special tokens.
        template_arguments: variables of the chat template.
    """

    def __init__(
        self,
        *,
        batch_size: int = 8,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int = 123,
        chat_template: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.seed = seed
        self.chat_template = chat_template
        self.template_arguments = dict(template_arguments or {})


class HarnessModel(TemplateLM):
    """A loaded model for lm-eval.

    Args:
        model, tokenizer: of `mlx_lm.load`.
        name: of the model, for reports.
        progress: told what is done.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        settings: Settings | None = None,
        *,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._model = model
        self._name = name
        self._settings = settings or Settings()
        self._progress = progress
        self._limit = context_length(model)

    # What lm-eval asks about the model.

    @property
    def tokenizer_name(self) -> str:
        return self._name.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else 0

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eot_token_id

    @property
    def max_length(self) -> int:
        return self._limit if self._limit is not None else _DEFAULT_CONTEXT

    def get_model_info(self) -> dict[str, Any]:
        return {"model": self._name}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self._settings.template_arguments,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None and not self._settings.chat_template:
            return encode_prompt(self.tokenizer, string)
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    # What it asks the model.

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context or [self.prefix_token_id], continuation) for _, context, continuation in requests]
        scores = score_continuations(
            self._model,
            pairs,
            batch_size=self._settings.batch_size,
            progress=self._told("continuations scored"),
        )
        results = [(score.logprob, score.greedy) for score in scores]
        for (texts, _, _), result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(
                token_list=tokens, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for window in windows:
                pairs.append(make_disjoint_window(window))
                owners.append(owner)
        scores = score_continuations(
            self._model, pairs, batch_size=self._settings.batch_size, progress=self._told("windows scored")
        )
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, scores, strict=True):
            totals[owner] += score.logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        questions = [self._question(i, *request.args) for i, request in enumerate(requests)]
        texts = write_answers(
            self._model,
            self.tokenizer,
            questions,
            batch_size=self._settings.batch_size,
            progress=self._told("answers written"),
        )
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _question(self, index: int, context: str, arguments: Mapping[str, Any]) -> Question:
        wanted = next((int(arguments[name]) for name in _LENGTH_NAMES if arguments.get(name) is not None), _MAX_TOKENS)
        wanted = wanted if self._settings.max_tokens is None else self._settings.max_tokens
        until = arguments.get("until") or []
        prompt = self.tok_encode(context) or [self.prefix_token_id]
        if self._limit is not None:
            # A long prompt loses its beginning, as likelihoods' do, and leaves room for an answer.
            room = self._limit - min(wanted if wanted > 0 else self._limit, max(self._limit // 4, 1))
            if len(prompt) > room:
                _log.warning("Prompt %d has %d tokens; it keeps its last %d.", index + 1, len(prompt), room)
                prompt = prompt[-room:]
        stop = (until,) if isinstance(until, str) else tuple(until)
        return Question(tuple(prompt), None if wanted == -1 else wanted, stop, self._sampler(index, arguments))

    def _sampler(self, index: int, arguments: Mapping[str, Any]) -> Sampler:
        """A sampler of its own for each answer, so that answers do not depend on their batch."""
        own = self._settings
        temperature = own.temperature
        if temperature is None:
            sampled = arguments.get("do_sample", True)
            temperature = float(arguments.get("temperature") or 0.0) if sampled else 0.0
        if temperature == 0:
            return greedy_sampler
        top_p = own.top_p if own.top_p is not None else float(arguments.get("top_p") or 0.0)
        top_k = own.top_k if own.top_k is not None else int(arguments.get("top_k") or 0)
        return make_sampler(temperature, top_p, top_k=top_k, seed=own.seed + index)

    def _told(self, what: str) -> Callable[[int, int], object] | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress(what, done, total)


def run_tasks(
    model: HarnessModel,
    tasks: Sequence[str],
    *,
    settings: Settings,
    num_shots: int | None = None,
    limit: int | None = None,
    fewshot_as_multiturn: bool = False,
    confirm_run_unsafe_code: bool = False,
    include_path: str | None = None,
) -> dict[str, Any]:
    """lm-eval's results of tasks.

    Args:
        tasks: names, groups, tags or patterns of tasks.
        limit: questions of each task.
        include_path: folder of further tasks.

    Raises:
        RequestError: a task is not known, or cannot be loaded or run; the message says which and why.
    """
    manager = TaskManager(include_path=include_path)
    names = manager.match_tasks(list(tasks))
    for task in tasks:
        if not manager.match_tasks([task]):
            near = difflib.get_close_matches(task, manager.all_tasks, n=3)
            hint = f" The nearest: {', '.join(near)}." if near else ""
            raise RequestError(f"lm-eval knows no task {task!r}.{hint}")
    try:
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            num_fewshot=num_shots,
            limit=limit,
            batch_size=settings.batch_size,
            apply_chat_template=settings.chat_template,
            fewshot_as_multiturn=fewshot_as_multiturn,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
            log_samples=False,
            task_manager=manager,
        )
    except MLXLMError:
        raise
    except Exception as error:  # lm-eval, its tasks and datasets raise errors of many libraries
        raise RequestError(f"lm-eval cannot run {', '.join(names)}: {type(error).__name__}: {error}") from error
    assert results is not None  # only other ranks get none
    return results
