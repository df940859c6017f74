"""Our own tokenizer object: a `tokenizers.Tokenizer` with special tokens, under the names that Hugging Face uses.

Contract: `encode`, `decode`, `__call__` and the look-ups give what transformers gives for the same tokenizer.json.
Nothing is truncated unless a call says `truncation=True`; `model_max_length` is a number to read, not a limit.
`clean_up_tokenization_spaces` is never applied: it corrupts text that was encoded without loss.

This module does not know chat templates beyond carrying them, nor files except in `save_pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_lm.errors import TokenizerError

__all__ = ["SPECIAL_NAMES", "Encoded", "FastTokenizer", "max_length", "side", "token_text"]

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNLIMITED = int(1e30)  # what transformers writes for a tokenizer without a limit


def token_text(token: Any) -> str | None:
    """The text of a special token, which configs write as a string or as an AddedToken dict."""
    if isinstance(token, Mapping):
        token = token.get("content")
    text = getattr(token, "content", token)
    if text is not None and not isinstance(text, str):
        raise TokenizerError(f"A special token must be a string, not {text!r}.")
    return text


def max_length(value: Any) -> int:
    """`model_max_length` of a config; without one there is no limit."""
    if value is None:
        return UNLIMITED
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise TokenizerError(f"modelmax_length must be a positive number, not {value!r}.")
    return int(value)


def side(value: Any) -> str:
    """`truncation_side` or `padding_side` of a config."""
    if value not in ("left", "right"):
        raise TokenizerError(f"truncation_side and padding_side must be 'left' or 'right', not {value!r}.")
    return value


class Encoded(dict[str, Any]):
    """The result of calling a tokenizer: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class _Special:
    """A special token's text, e.g. `pad_token`; None when the tokenizer has none."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: FastTokenizer, _: Any = None) -> str | None:
        return owner._special.get(self.name)

    def __set__(self, owner: FastTokenizer, value: Any) -> None:
        owner._set_special(self.name, token_text(value))


class _SpecialId:
    """A special token's id, e.g. `pad_token_id`; setting it chooses the token."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: FastTokenizer, _: Any = None) -> int | None:
        text = owner._special.get(self.name)
        return None if text is None else owner.backend_tokenizer.token_to_id(text)

    def __set__(self, owner: FastTokenizer, value: int | None) -> None:
        text = None if value is None else owner.backend_tokenizer.id_to_token(value)
        if value is not None and text is None:
            raise TokenizerError(f"{self.name}_id: the vocabulary has no id {value}.")
        owner._set_special(self.name, text)


class FastTokenizer:
    """Wraps `backend` (a `tokenizers.Tokenizer`).

    `special`: texts by name (`bos_token`, ...). `extra_special`: further special tokens. `init_kwargs`: the
    tokenizer_config.json entries, kept for `save_pretrained`.
    """

    bos_token, bos_token_id = _Special("bos_token"), _SpecialId("bos_token")
    eos_token, eos_token_id = _Special("eos_token"), _SpecialId("eos_token")
    unk_token, unk_token_id = _Special("unk_token"), _SpecialId("unk_token")
    sep_token, sep_token_id = _Special("sep_token"), _SpecialId("sep_token")
    pad_token, pad_token_id = _Special("pad_token"), _SpecialId("pad_token")
    cls_token, cls_token_id = _Special("cls_token"), _SpecialId("cls_token")
    mask_token, mask_token_id = _Special("mask_token"), _SpecialId("mask_token")
    is_fast = True

    def __init__(
        self,
        backend: Any,
        *,
        special: Mapping[str, Any] | None = None,
        extra_special: Iterable[Any] = (),
        chat_templates: Mapping[str, str] | None = None,
        model_max_length: int = UNLIMITED,
        truncation_side: str = "right",
        padding_side: str = "left",
        name_or_path: str = "",
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend_tokenizer = backend
        self.chat_templates = dict(chat_templates or {})
        self.model_max_length = model_max_length
        self.truncation_side = truncation_side
        self.padding_side = padding_side
        self.name_or_path = name_or_path
        self.init_kwargs = dict(init_kwargs or {})
        self.clean_up_tokenization_spaces = False
        self._vocab: dict[str, int] | None = None
        texts = {name: token_text(token) for name, token in (special or {}).items()}
        self._special: dict[str, str] = {name: text for name, text in texts.items() if text is not None}
        self._extra = [text for text in map(token_text, extra_special) if text is not None]
        self._mark_special([*self._special.values(), *self._extra])

    def _set_special(self, name: str, text: str | None) -> None:
        if text is None:
            self._special.pop(name, None)
        else:
            self._special[name] = text
            self._mark_special([text])

    def _mark_special(self, texts: Sequence[str]) -> None:
        """Makes known tokens special (whole in the input, skipped on request). Never adds an id to the vocabulary."""
        from tokenizers import AddedToken

        added = {token.content: token for token in self.backend_tokenizer.get_added_tokens_decoder().values()}
        new = []
        for text in dict.fromkeys(texts):
            if self.backend_tokenizer.token_to_id(text) is not None and not (text in added and added[text].special):
                new.append(AddedToken(text, special=True, normalized=False))
        if new:
            self.backend_tokenizer.add_special_tokens(new)

    # -- vocabulary

    @property
    def vocab_size(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        vocab = self._vocab
        if vocab is None:
            vocab = self._vocab = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return dict(vocab or {})

    @property
    def vocab(self) -> dict[str, int]:
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return self.backend_tokenizer.get_added_tokens_decoder()

    def get_added_vocab(self) -> dict[str, int]:
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    @property
    def special_tokens_map(self) -> dict[str, str]:
        return {name: self._special[name] for name in SPECIAL_NAMES if name in self._special}

    @property
    def additional_special_tokens(self) -> list[str]:
        return list(self._extra)

    extra_special_tokens = additional_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        ids = map(self.backend_tokenizer.token_to_id, self.all_special_tokens)
        return [index for index in ids if index is not None]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token text of one id, or of each id of a list; None for ids past the vocabulary."""
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids) if ids >= 0 else None
        skip = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend_tokenizer.id_to_token(index) for index in _ints(ids) if index not in skip]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of one token text, or of each; the unknown token's id (or None) where there is none."""
        if isinstance(tokens, str):
            index = self.backend_tokenizer.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        return None if tokens is None else [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        decoder = self.backend_tokenizer.decoder
        return decoder.decode(list(tokens)) if decoder is not None else " ".join(tokens)

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[str]:
        return self._encoding(text, add_special_tokens).tokens

    # -- text to ids

    def _encoding(self, text: str, add_special_tokens: bool, limit: int | None = None) -> Any:
        if not isinstance(text, str):
            raise TypeError(f"The text to encode must be a str, not {type(text).__name__}.")
        try:
            if limit is None:
                return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
            encoding = self.backend_tokenizer.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise TokenizerError(f"The text is not valid Unicode (a lone surrogate?): {error}") from error
        extra = self.backend_tokenizer.num_special_tokens_to_add(False) if add_special_tokens else 0
        encoding.truncate(max(limit - extra, 0), direction=self.truncation_side)
        return self.backend_tokenizer.post_process(encoding, None, add_special_tokens)

    def _limit(self, truncation: bool | str | None, max_length: int | None) -> int | None:
        """Only an explicit `truncation` cuts; without `max_length` it cuts at `model_max_length`."""
        if not truncation or truncation == "do_not_truncate":
            return None
        limit = self.model_max_length if max_length is None else max_length
        return int(limit) if limit < 2**31 else None

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        *,
        truncation: bool | str | None = False,
        max_length: int | None = None,
    ) -> list[int]:
        """The ids of `text`; `add_special_tokens` adds what the model's own format adds (a BOS, mostly)."""
        return self._encoding(text, add_special_tokens, self._limit(truncation, max_length)).ids

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
    ) -> Encoded:
        """Encodes one text or a batch.

        Returns `input_ids` and `attention_mask`: lists (of lists for a batch), or numpy arrays (B, L) for
        `return_tensors="np"`. Padding uses `pad_token` on `padding_side`.
        """
        if return_tensors not in (None, "np"):
            raise TokenizerError(f"return_tensors={return_tensors!r} needs transformers: use tokenizer._tokenizer.")
        limit = self._limit(truncation, max_length)
        single = isinstance(text, str)
        rows = [self._encoding(item, add_special_tokens, limit).ids for item in ([text] if single else text)]
        masks = [[1] * len(row) for row in rows]
        if padding and padding != "do_not_pad":
            length = max_length if padding == "max_length" and max_length else max(map(len, rows), default=0)
            rows, masks = self._pad(rows, masks, length)
        result = Encoded(input_ids=rows, attention_mask=masks)
        if not return_attention_mask:
            del result["attention_mask"]
        if return_tensors == "np":
            import numpy as np

            return Encoded({key: np.array(value, dtype=np.int64) for key, value in result.items()})
        return Encoded({key: value[0] for key, value in result.items()}) if single else result

    def _pad(self, rows: list[list[int]], masks: list[list[int]], length: int) -> tuple[list[Any], list[Any]]:
        if self.pad_token_id is None:
            raise TokenizerError("This tokenizer has no padding token: set pad_token (often to eos_token).")
        fill = [length - len(row) for row in rows]
        if self.padding_side == "left":
            padded = [[self.pad_token_id] * n + row for n, row in zip(fill, rows, strict=True)]
            return padded, [[0] * n + mask for n, mask in zip(fill, masks, strict=True)]
        padded = [row + [self.pad_token_id] * n for n, row in zip(fill, rows, strict=True)]
        return padded, [mask + [0] * n for n, mask in zip(fill, masks, strict=True)]

    # -- ids to text

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> Any:
        """The text of one id or a sequence of ids (a list, or anything with `tolist`)."""
        ids = [token_ids] if isinstance(token_ids, int) else _ints(token_ids)
        if ids and isinstance(ids[0], list):
            return self.batch_decode(ids, skip_special_tokens)
        try:
            return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        except OverflowError as error:
            raise TokenizerError("Token ids must not be negative.") from error

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        rows = sequences.tolist() if hasattr(sequences, "tolist") else sequences
        return [self.decode(row, skip_special_tokens) for row in rows]

    # -- the outside world

    def to_transformers(self) -> Any:
        """A transformers `PreTrainedTokenizerFast` over a copy of the same tokenizer. Needs transformers."""
        from transformers import PreTrainedTokenizerFast  # pyright: ignore[reportMissingImports]

        templates = dict(self.chat_templates)
        template: Any = templates["default"] if list(templates) == ["default"] else (templates or None)
        return PreTrainedTokenizerFast(
            tokenizer_object=self.backend_tokenizer,
            model_max_length=self.model_max_length,
            truncation_side=self.truncation_side,
            padding_side=self.padding_side,
            clean_up_tokenization_spaces=False,
            additional_special_tokens=self.additional_special_tokens,
            chat_template=template,
            **self.special_tokens_map,
        )

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Writes tokenizer.json, tokenizer_config.json and the chat templates; returns the paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        skipped = ("chat_template", "added_tokens_decoder", "auto_map", "trust_remote_code", *SPECIAL_NAMES)
        config = {key: value for key, value in self.init_kwargs.items() if key not in skipped}
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        config |= self.special_tokens_map
        config |= {"model_max_length": self.model_max_length, "truncation_side": self.truncation_side}
        config |= {"clean_up_tokenization_spaces": False}
        if self._extra:
            config["additional_special_tokens"] = self._extra
        written = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
        self.backend_tokenizer.save(str(written[0]))
        written[1].write_text(json.dumps(config, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        for name, source in self.chat_templates.items():
            extra = folder / "additional_chat_templates"
            path = folder / "chat_template.jinja" if name == "default" else extra / f"{Path(name).name}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")
            written.append(path)
        return tuple(map(str, written))


def _ints(ids: Any) -> list[Any]:
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
        return ids if isinstance(ids, list) else [ids]
    return [item.tolist() if hasattr(item, "tolist") else item for item in ids]
