"""A conversation with a model: messages, and answers computed with what earlier turns left in the cache.

Each turn renders the whole conversation with the chat template and computes only what the states do not hold yet, so
that any edit of the history gives the same answer as a fresh start. Knows nothing of terminals.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ContextLengthError, RequestError
from .options import Sampling
from .prompt import ChatFormat
from .saved_prompt import SavedPrompt
from .turns import Turns, common_prefix, prefill

__all__ = ["Answer", "Conversation"]


@dataclass(frozen=True)
class Answer:
    """How a turn ended: its last response (None when it was stopped before the first token) and what it reused."""

    last: Any
    text: str
    interrupted: bool
    reused: int
    prompt_tokens: int


class Conversation:
    """Messages with one model.

    Args:
        models: the model, and the draft model where there is one.
        chat: how messages become tokens.
        sampling: sampler and logits processors.
        settings: keyword arguments of `stream_generate` for every answer, `prefill_step_size` among them.
        turns: states of the conversation.
        begun: a saved prompt with which the first user message begins.
        constrain: gives the constraint of the answer to a prompt (token ids), or None.
    """

    def __init__(
        self,
        models: list[Any],
        chat: ChatFormat,
        sampling: Sampling,
        settings: dict[str, Any],
        turns: Turns,
        *,
        system: str | None = None,
        begun: SavedPrompt | None = None,
        constrain: Callable[[list[int]], Any] = lambda _: None,
    ):
        self._models, self._chat, self._sampling, self._settings = models, chat, sampling, settings
        self._turns = turns
        self._begun = begun
        self._constrain = constrain
        self.system = system if begun is None else begun.system
        self.messages: list[dict[str, str]] = []

    def add_user(self, text: str) -> None:
        """Appends what the user says."""
        self.messages.append({"role": "user", "content": text})

    def reset(self) -> None:
        """Forgets all messages, and a saved beginning; the system prompt stays."""
        self.messages, self._begun = [], None

    def undo(self) -> str | None:
        """Takes back the last user message and everything after it; returns its text, or None without one."""
        for i in range(len(self.messages) - 1, -1, -1):
            if self.messages[i]["role"] == "user":
                text = self.messages[i]["content"]
                del self.messages[i:]
                return text
        return None

    def save(self, file: str) -> None:
        """Writes the messages as JSON, atomically; RequestError when that fails."""
        target = Path(file).expanduser()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        content = {"system": self.system, "messages": self._conversation()[0 if self.system is None else 1 :]}
        try:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RequestError(f"{file} cannot be written: {error.strerror or error}.") from error

    def load(self, file: str) -> None:
        """Takes over a saved conversation; RequestError for a file that is not one."""
        try:
            content = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
            system, messages = content["system"], content["messages"]
            good = all(set(m) == {"role", "content"} and all(isinstance(v, str) for v in m.values()) for m in messages)
            if not good or not (system is None or isinstance(system, str)):
                raise ValueError("it holds something else than messages")
        except OSError as error:
            raise RequestError(f"{file} cannot be read: {error.strerror or error}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(f"{file} is not a saved conversation: {error!r}.") from error
        self.reset()
        self.system, self.messages = system, messages

    def answer(
        self,
        on_text: Callable[[str], object],
        *,
        stopped: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], object] | None = None,
    ) -> Answer:
        """Computes the answer to the last user message and appends it.

        `stopped` is asked after each token and each piece of the prompt; what was written until then is kept. A turn
        that fails or is stopped before its first token leaves the user message unanswered, for the caller to undo.
        """
        tokens = self._chat.tokens(self._conversation(), add_generation_prompt=True)
        self._check_length(len(tokens))
        text, last, generated, interrupted = "", None, [], False

        def watch(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
            if stopped():
                raise _StoppedError

        reused = 0
        try:
            reused = self._prepare(tokens, watch)
            for last in self._responses(tokens, watch):
                generated.append(last.token)
                text += last.text
                on_text(last.text)
                if last.finish_reason is None and stopped():
                    interrupted = True
                    break
        except _StoppedError:
            interrupted = True
        except BaseException:
            self._turns.reset()  # it is not known what the states hold
            raise
        self._turns.record([*tokens, *generated])
        if last is not None:
            self.messages.append({"role": "assistant", "content": text})
        return Answer(last, text, interrupted, reused, len(tokens))

    def _conversation(self) -> list[dict[str, str]]:
        """All messages, the system prompt first."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = [dict(m) for m in self.messages]
        if self._begun is not None and messages and messages[0]["role"] == "user":
            messages[0]["content"] = self._begun.text + messages[0]["content"]
        return [*system, *messages]

    def _check_length(self, length: int) -> None:
        """Refuses a conversation that is too long before the cache is touched."""
        from ..engine import context_length

        limit = context_length(self._models[0])
        if limit is not None and length > limit:
            raise ContextLengthError(length, limit)

    def _prepare(self, tokens: list[int], watch: Callable[[int, int], object]) -> int:
        """Brings the states to a beginning of `tokens`; returns how many tokens were there already.

        Where states cannot give back single tokens, the prompt is computed in two pieces with a mark between: up to
        where the next turn's prompt will surely agree with this one's, and the opening of the answer.
        """
        reused = self._turns.rewind(tokens)
        if self._turns.trimmable:
            return reused
        if reused:
            self._turns.mark()
        closed = self._chat.tokens(self._conversation(), add_generation_prompt=False)
        boundary = min(common_prefix(tokens, closed), len(tokens) - 1)
        if boundary > reused:
            piece = tokens[reused:boundary]
            try:
                step = self._settings["prefill_step_size"]
                prefill(self._models, self._turns.sides, piece, step=step, progress=watch)
            finally:
                self._turns.record(tokens)
            self._turns.mark()
        return reused

    def _responses(self, tokens: list[int], watch: Callable[[int, int], object]) -> Iterator[Any]:
        from ..engine import stream_generate

        held = self._turns.held
        responses = stream_generate(
            self._models[0],
            self._chat.tokenizer,
            tokens[held:],
            draft_model=self._models[1] if len(self._models) > 1 else None,
            sampler=self._sampling.sampler,
            logits_processors=self._sampling.processors,
            prompt_cache=self._turns.states,
            history=tokens[:held],
            prompt_progress_callback=watch,
            constraint=self._constrain(tokens),
            stop=list(self._chat.stop) or None,
            **self._settings,
        )
        try:
            yield from responses
        finally:
            responses.close()


class _StoppedError(BaseException):
    """Raised inside a progress callback; not an Exception, so that nothing on the way takes it for a failure."""
