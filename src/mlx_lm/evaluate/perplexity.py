"""Perplexity: the exponential of the mean surprise (nats) of each token given those before it in its window.

Texts are joined in shuffled order and cut into windows of equal length, which begin with the beginning-of-text token
where the tokenizer puts one: some models predict nothing sensible without it. Every window is computed alone,
its first token is given and all others count. Log-softmax is done in float32 over a bounded number of
positions at a time. The standard error is the delta method's: perplexity times the standard error of the mean.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..engine import context_length, new_states
from ..errors import ContextLengthError, DownloadError, RequestError
from ..kernels import fused, log_softmax

__all__ = ["Perplexity", "first_token", "load_texts", "measure_perplexity", "token_windows"]

_LOGITS_BYTES = 256 * 2**20  # float32 logits that exist at one time


@dataclass(frozen=True)
class Perplexity:
    """A measurement.

    Attributes:
        perplexity, standard_error: of the whole.
        mean_nll: mean surprise in nats.
        tokens: tokens that were predicted.
        windows: texts of `sequence_length` tokens.
        seconds: time of the computation.
    """

    perplexity: float
    standard_error: float
    mean_nll: float
    tokens: int
    windows: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def load_texts(data_path: str, tokenizer: Any, *, seed: int = 123) -> Iterator[list[int]]:
    """Token ids of each text of a local file or a Hugging Face dataset, in an order that `seed` settles.

    A .jsonl file has an object a line with `text`, `prompt` and `completion`, or `messages` (rendered with the chat
    template); a .json file a list of such objects; any other file is one text. A dataset needs the `datasets`
    package and uses its `train` split.

    Raises:
        RequestError: the file or a record is malformed.
        DownloadError: there is no such file, and the dataset cannot be fetched.
    """
    path = Path(data_path).expanduser()
    records = _read_file(path) if path.is_file() else _read_dataset(data_path)
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    for index in order:
        yield _encode(records[index], tokenizer, f"{data_path}, record {index + 1}")


def first_token(tokenizer: Any) -> int | None:
    """The beginning-of-text token, where the tokenizer puts one before each text."""
    bos = tokenizer.bos_token_id
    return bos if bos is not None and list(tokenizer.encode("a"))[:1] == [bos] else None


def token_windows(
    texts: Iterable[Sequence[int]], length: int, count: int = -1, *, begin: int | None = None
) -> list[list[int]]:
    """The first `count` windows (-1: all) of `length` tokens of the joined texts; what is left over is dropped.

    Every window begins with the token `begin`, where it is given.

    Raises:
        RequestError: a size is out of range, or there is not one whole window.
    """
    if length < 2:
        raise RequestError(f"The sequence length must be at least 2, not {length}.")
    if count < 1 and count != -1:
        raise RequestError(f"The number of samples must be at least 1, or -1 for all, not {count}.")
    windows: list[list[int]] = []
    rest: list[int] = []
    for tokens in texts:
        rest += tokens
        while len(windows) != count:
            added = [] if begin is None or rest[:1] == [begin] else [begin]
            if len(rest) + len(added) < length:
                break
            windows.append([*added, *rest[: length - len(added)]])
            del rest[: length - len(added)]
        if len(windows) == count:
            break
    if not windows:
        raise RequestError(f"The data has {len(rest)} tokens, fewer than the sequence length {length}.")
    return windows


def measure_perplexity(
    model: nn.Module,
    windows: Sequence[Sequence[int]],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> Perplexity:
    """Perplexity of equally long windows of token ids.

    Args:
        model: called as `model(ids (B, L))` -> logits (B, L, V).
        progress: called with (windows done, windows in all).

    Raises:
        RequestError: `batch_size` is below 1.
        ContextLengthError: a window is longer than the model's context.
    """
    if batch_size < 1:
        raise RequestError(f"The batch size must be at least 1, not {batch_size}.")
    longest, limit = max(map(len, windows), default=0), context_length(model)
    if limit is not None and longest > limit:
        raise ContextLengthError(longest, limit)
    start = time.perf_counter()
    count, mean, spread = 0, 0.0, 0.0  # spread: sum of squared deviations from the mean (Chan et al.)
    for first in range(0, len(windows), batch_size):
        batch = mx.array([list(w) for w in windows[first : first + batch_size]], mx.int32)
        for nll in _surprise(model, batch):
            n, part = nll.size, float(nll.mean())
            inner = float(((nll - part) ** 2).sum())
            delta = part - mean
            spread += inner + delta * delta * count * n / (count + n)
            mean += delta * n / (count + n)
            count += n
        if progress is not None:
            progress(min(first + batch_size, len(windows)), len(windows))
    error = math.sqrt(spread / (count - 1) / count) if count > 1 else math.nan
    value = math.exp(mean) if mean < 700 else math.inf
    return Perplexity(value, value * error, mean, count, len(windows), time.perf_counter() - start)


def _surprise(model: nn.Module, batch: mx.array) -> Iterator[mx.array]:
    """Negative log-probabilities (n,) in nats of the tokens (B, L) after the first, some positions at a time."""
    from ..engine.runner import hidden_and_head

    body, head = hidden_and_head(model)  # what `body` gives are logits already where the model is of one piece
    if fused.available():  # native layers serve one sequence and its states
        hidden = mx.concatenate([body(batch[i : i + 1, :-1], new_states(model)) for i in range(len(batch))])
    else:
        hidden = body(batch[:, :-1])
    targets = batch[:, 1:].reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1])
    mx.eval(rows)
    vocabulary = getattr(getattr(model, "args", None), "vocab_size", None) or 2**17
    step = max(_LOGITS_BYTES // (4 * int(vocabulary)), 1)
    for start in range(0, rows.shape[0], step):
        piece = rows[start : start + step]
        logits = (piece if head is None else head(piece)).astype(mx.float32)
        nll = -mx.take_along_axis(log_softmax(logits), targets[start : start + step, None], axis=-1)[:, 0]
        mx.eval(nll)
        yield nll
    mx.clear_cache()


def _read_file(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix == ".json":
            records = json.loads(text)
        else:
            records = [{"text": text}]
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be read: {error}.") from error
    if not isinstance(records, list) or not records:
        raise RequestError(f"{path} holds no texts.")
    return records


def _read_dataset(name: str) -> Any:
    hint = "pass --data-path FILE with a local text, .json or .jsonl file"
    try:
        from datasets import load_dataset  # type: ignore[import-not-found]
    except ImportError as error:
        raise DownloadError(
            f"{name} is no local file, and Hugging Face datasets need the datasets package; install it, or {hint}."
        ) from error
    try:
        return load_dataset(name, split="train")
    except Exception as error:  # the package raises errors of many libraries
        raise DownloadError(
            f"The dataset {name} cannot be fetched ({type(error).__name__}: {error}); {hint}."
        ) from error


def _encode(record: Any, tokenizer: Any, where: str) -> list[int]:
    if not isinstance(record, dict):
        raise RequestError(f"{where} must be an object with text, prompt and completion, or messages.")
    if isinstance(record.get("text"), str):
        return list(tokenizer.encode(record["text"]))
    if isinstance(record.get("messages"), list):
        return list(tokenizer.apply_chat_template(record["messages"]))
    if isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str):
        return list(tokenizer.encode(record["prompt"] + record["completion"]))
    raise RequestError(f"{where} has none of: text; prompt and completion; messages.")
