"""Prompt cache files of the commands: the states, and what is needed to go on from them.

The metadata beside the states: `model` (name), `adapter`, `fingerprint` of the weights, and `mlx_lm.prompt`, a JSON
object with the token ids, the text, the system prompt and the template settings. A file that the Python API wrote
has only what its caller gave; such a prompt is continued without knowing its tokens.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CacheMismatchError, ModelNotFoundError, RequestError
from .loading import Loaded, stable_name
from .prompt import ChatFormat
from .turns import Turns, common_prefix

__all__ = ["SavedPrompt", "load_saved_prompt", "read_model_name", "save_prompt"]

_KEY = "mlx_lm.prompt"
_PROBES = ("a", " a", "A", "1", ".", ",", "\n", "\n\n", " ", "  ")  # what may follow, and merge with the last token
_MARK = "\ue000prompt\ue001"  # private-use characters: no prompt has them


@dataclass(frozen=True)
class SavedPrompt:
    """What the cached tokens are: `text` began the first user message (or the whole text, with template None).

    `tokens` are those that stay the same whatever follows, and that the states hold; `tail` those after them.
    """

    tokens: list[int] = field(default_factory=list)
    tail: list[int] = field(default_factory=list)
    text: str = ""
    system: str | None = None
    template: str | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    kv: dict[str, Any] = field(default_factory=dict)
    eos: str | None = None  # one more token that ends generation
    known: bool = True  # False for a file without this description

    def messages(self, text: str) -> list[dict[str, str]]:
        """The conversation whose first user message begins with the cached text and goes on with `text`."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.text + text}]


def save_prompt(file: str, states: list[Any], prompt: SavedPrompt, loaded: Loaded, adapter: str | None) -> None:
    """Writes states and metadata, atomically; RequestError when the file cannot be written."""
    from ..models.cache import save_prompt_cache

    metadata = {
        "model": loaded.name,
        "adapter": "" if adapter is None else stable_name(adapter),
        "fingerprint": loaded.fingerprint,
        "tokenizer_config": "{}",  # read by programs written for mlx-lm
        _KEY: json.dumps({k: v for k, v in asdict(prompt).items() if k != "known"}),
    }
    try:
        save_prompt_cache(file, states, metadata)
    except (OSError, RuntimeError) as error:
        raise RequestError(f"--prompt-cache-file {file} cannot be written: {error}.") from error


def load_saved_prompt(file: str) -> tuple[list[Any], dict[str, str]]:
    """(states, metadata); ModelNotFoundError when there is no such file."""
    from ..models.cache import load_prompt_cache

    if not Path(file).is_file():
        raise ModelNotFoundError(f"--prompt-cache-file {file} does not exist; mlx_lm.cache_prompt makes one.")
    return load_prompt_cache(file, return_metadata=True)


def read_model_name(metadata: dict[str, str], file: str, given: str | None) -> str:
    """The model that the file was made with; CacheMismatchError when another one is asked for."""
    saved = metadata.get("model")
    if not saved and given is None:
        raise CacheMismatchError(f"{file} does not say which model it was made with; name it with --model.")
    if saved and given is not None and stable_name(given) != saved:
        raise CacheMismatchError(f"{file} was made with {saved}, not with {given}; leave out --model.")
    return saved or str(given)


def read_prompt_entry(metadata: dict[str, str], file: str) -> SavedPrompt:
    """What the file says of its prompt."""
    if _KEY not in metadata:
        return SavedPrompt(known=False)
    try:
        prompt = SavedPrompt(**json.loads(metadata[_KEY]))
    except (ValueError, TypeError) as error:
        raise CacheMismatchError(f"{file}: its description of the prompt is malformed: {error}.") from error
    if not prompt.tokens or not all(isinstance(t, int) for t in prompt.tokens) or not isinstance(prompt.text, str):
        raise CacheMismatchError(f"{file}: its description of the prompt is malformed.")
    return prompt


def check_made_for(metadata: dict[str, str], file: str, loaded: Loaded, adapter: str | None) -> None:
    """CacheMismatchError when the weights or the adapter are not those that the file was made with."""
    if "adapter" in metadata and metadata["adapter"] != ("" if adapter is None else stable_name(adapter)):
        made = f"with --adapter-path {metadata['adapter']}" if metadata["adapter"] else "without an adapter"
        raise CacheMismatchError(f"{file} was made {made}; use it in the same way.")
    if "fingerprint" in metadata and metadata["fingerprint"] != loaded.fingerprint:
        raise CacheMismatchError(
            f"{file} was made with other weights of {loaded.name} than those there now; make it again."
        )


def check_kv(prompt: SavedPrompt, file: str, given: dict[str, Any]) -> None:
    """CacheMismatchError when kv options that were given differ from those the file was made with."""
    plain = prompt.kv.get("kv_bits") is None  # plain states can still be packed from here on
    for name, value in given.items():
        if value is None or name not in prompt.kv or (plain and name != "max_kv_size"):
            continue
        if value != prompt.kv[name]:
            option = f"--{name.replace('_', '-')}"
            raise CacheMismatchError(f"{file} was made with {option} {prompt.kv[name]}, not {value}; leave it out.")


def continue_prompt(
    prompt: SavedPrompt, turns: Turns, chat: ChatFormat, text: str, prefill: str | None = None
) -> tuple[list[int], list[int]]:
    """(tokens that the states hold, tokens still to compute) for the cached prompt followed by `text`.

    Exactly the tokens of the whole prompt where the states can give back the last few, else the cached tokens
    followed by those of the rest of the text.
    """
    if not prompt.known:
        if prefill is not None:
            raise RequestError("--prefill-response needs a prompt cache made by mlx_lm.cache_prompt.")
        whole = chat.text([{"role": "user", "content": _MARK}], add_generation_prompt=True) if chat.template else _MARK
        rest = text + whole.partition(_MARK)[2]
        return [], list(chat.tokenizer.encode(rest, add_special_tokens=False))
    before, whole = render(prompt, chat), render(prompt, chat, text, prefill)
    tokens = chat.encode(whole)
    if turns.rewind_exactly(tokens):
        return turns.tokens, tokens[len(turns.tokens) :]
    if not whole.startswith(before):
        raise CacheMismatchError("The chat template changes the cached part of the prompt when more text follows.")
    rest = chat.tokenizer.encode(whole[len(before) :], add_special_tokens=False)
    return turns.tokens, [*prompt.tail, *rest]


def with_tokens(prompt: SavedPrompt, chat: ChatFormat) -> SavedPrompt:
    """The prompt with its ids, divided where they no longer depend on what follows."""
    text = render(prompt, chat)
    tokens = chat.encode(text)
    stable = min(common_prefix(tokens, chat.encode(text + probe)) for probe in _PROBES)
    stable = stable or len(tokens)
    return replace(prompt, tokens=tokens[:stable], tail=tokens[stable:])


def render(prompt: SavedPrompt, chat: ChatFormat, text: str | None = None, prefill: str | None = None) -> str:
    """The cached prompt as the model reads it: left open, or with `text` after it and the answer to come."""
    if chat.template is None:
        return prompt.text + (text or "")
    if text is None:
        return chat.text(prompt.messages(""), continue_final_message=True)
    return chat.answer_text(prompt.messages(text), prefill)
