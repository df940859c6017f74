"""Greedy text of the packaged models, token by token, against llama.cpp.

The pinned tokens come from llama.cpp (the tree of llama-cpp-python 0.3.36) with temperature 0 on the CPU, from the same
weights dequantized without loss to float32 (`llama-quantize --allow-requantize MODEL.gguf OUT.gguf F32`), float32 keys
and values and no flash attention: its path that does not quantize activations. docs/benchmarks.md says how its
quantized paths differ and why. `margin` is the smallest gap between the two largest logits on the way; ours were within
0.02 (smollm2), 0.17 (gemma, whose Q6_K tensors are packed anew) and 0.06 (qwen) of llama.cpp's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from mlx_lm import generate_step, load
from mlx_lm.hub import load_gguf_config, resolve
from mlx_lm.kernels import native
from mlx_lm.models.load import check_config


@dataclass(frozen=True)
class Pin:
    """`prompt` (text) is `ids`, after which come `tokens`; an end token is the last when there is one."""

    model: str
    prompt: str
    ids: str
    tokens: str
    margin: float


PINS = (
    Pin(
        "smollm2",
        "Once upon a time",
        "6403 1980 253 655",
        "28 260 2240 282 23324 27108 436 253 15114 39228 28 351 25854 41658 284 14055 9018 30 1249 347 260 "
        "929 3514 411 28 260 2240 2585 288 5946 624 2798 9615 30 378 2268 29 16591 20215 282 260 3925 2591 "
        "2585 288 25858 28 284",
        0.048,
    ),
    Pin(
        "smollm2",
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
        "1 4093 198 1780 314 260 3575 282 4649 47 2 198 1 520 9531 198",
        "504 3575 282 4649 314 7042 30 2",
        1.591,
    ),
    Pin(
        "smollm2",
        "def fibonacci(n):\n",
        "1604 3987 46477 24 94 727 198",
        "198 1604 3987 46477 24 94 727 472 585 304 10204 216 33 42 448 1003 304 472 1745 42 448 1003 3987 "
        "46477 24 94 731 216 33 25 1232 3987 46477 24 94 731 216 34 25 198 198 3272 24 38572 46477 24 33 32",
        0.069,
    ),
    Pin(
        "gemma-3-270m",
        "Once upon a time",
        "2 14946 3324 496 990",
        "236764 993 691 496 2268 3953 7489 60708 236761 2625 691 496 1401 6538 3953 236764 532 1304 9312 531 "
        "1441 607 1116 4690 236761 3656 1719 236764 60708 691 5662 607 1116 4690 236764 532 1304 691 1401 "
        "9775 531 1441 607 1116 861 4690 236761 2625",
        0.057,
    ),
    Pin(
        "gemma-3-270m",
        "def fibonacci(n):\n",
        "2 2063 10779 78113 236769 236749 1473 107",
        "140 584 538 1251 236743 236771 236787 107 144 2060 236743 236771 107 140 36208 538 1251 236743 "
        "236770 236787 107 144 2060 236743 236770 107 140 36208 538 1251 236743 236778 236787 107 144 2060 "
        "236743 236778 107 140 36208 538 1251 236743 236800 236787 107 144",
        0.220,
    ),
    Pin(
        "gemma-3-270m",
        "The sun rises in the east and",
        "2 818 3768 33358 528 506 13512 532",
        "7093 528 506 11895 236761 107 818 3768 33358 528 506 13512 532 7093 528 506 11895 236761 107 818 "
        "3768 33358 528 506 13512 532 7093 528 506 11895 236761 107 818 3768 33358 528 506 13512 532 7093 528 "
        "506 11895 236761 107 818 3768 33358",
        0.258,
    ),
    Pin(
        "qwen2.5-coder-1.5b",
        "Once upon a time",
        "12522 5193 264 882",
        "11 1052 572 264 23702 13638 1380 12408 13938 16217 323 3746 13 758 419 13638 11 1052 572 264 3281 "
        "4916 2598 279 330 59790 18283 1189 576 17809 18283 572 773 3281 429 432 1410 1172 3063 304",
        0.053,
    ),
    Pin(
        "qwen2.5-coder-1.5b",
        "def fibonacci(n):\n",
        "750 75698 1445 982",
        "262 421 308 2651 220 15 510 286 470 330 7928 1946 698 262 4409 308 621 220 16 510 286 470 220 15 198 "
        "262 4409 308 621 220 17 510 286 470 220 16 198 262 770 510",
        0.044,
    ),
    Pin(
        "qwen2.5-coder-1.5b",
        "<|im_start|>user\nWrite a haiku about the sea.<|im_end|>\n<|im_start|>assistant\n",
        "151644 872 198 7985 264 6386 38242 911 279 9396 13 151645 198 151644 77091 198",
        "1639 68835 304 279 9956 345 96183 594 12767 26732 345 27571 306 9396 13 151645",
        0.098,
    ),
)
MODELS = tuple(dict.fromkeys(pin.model for pin in PINS))


def _marks(model: str) -> list[Any]:
    return [pytest.mark.real_model(model), *([] if model == "smollm2" else [pytest.mark.slow])]


@cache
def _load(model: str) -> Any:
    return load(model)


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    before = native.activations()
    native.set_activations("exact")
    yield
    native.set_activations(before)


@pytest.mark.parametrize("model", [pytest.param(m, marks=pytest.mark.real_model(m)) for m in MODELS])
def test_headers_give_configs_that_their_families_accept(model: str) -> None:
    files = resolve(model, allow_download=False)
    assert files.gguf is not None
    check_config(load_gguf_config(files.gguf))


@pytest.mark.parametrize(
    "pin", [pytest.param(p, marks=_marks(p.model), id=f"{p.model}-{p.prompt[:16]!r}") for p in PINS]
)
def test_greedy_text_is_llama_cpps(pin: Pin) -> None:
    model, tokenizer = _load(pin.model)
    ids, tokens = [int(t) for t in pin.ids.split()], [int(t) for t in pin.tokens.split()]
    assert list(tokenizer.encode(pin.prompt)) == ids
    found = [token for token, _ in generate_step(ids, model, max_tokens=len(tokens))]
    wrong = next((i for i, (a, b) in enumerate(zip(found, tokens, strict=True)) if a != b), None)
    assert wrong is None, f"token {wrong}: {found[wrong:][:4]} instead of {tokens[wrong:][:4]}"
