"""Every model type that this package is measured against has a family, or stands here with the reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_lm.models.registry import MODEL_REMAPPING, families

TARGETS = json.loads((Path(__file__).parent / "targets.json").read_text())

# By reason, the types that have no family.
WITHOUT: dict[str, str] = {
    "encoder: a bidirectional model that transformers can also run with a causal mask": """
        bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert modernbert-decoder rembert
        roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xmod""",
    "decoder half of an encoder-decoder model": """
        bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr whisper""",
    "its text is made with or for another modality (cross-attention, audio or image tokens)": """
        emu3 fuyu git got_ocr2 mllama moshi moss_transcribe_diarize musicgen musicgen_melody phi4_multimodal""",
    "helps another model guess tokens": "gemma4_assistant gemma4_unified_assistant",
    "reads bytes, or reads out of order": "blt reformer xlnet",
    "older than what people run with MLX": "cpmant ctrl gpt_neox_japanese",
}
NAMES = sorted({*TARGETS["causal"], *TARGETS["text_towers"], *TARGETS["mlx_lm"]})
REASONS = {name: reason for reason, names in WITHOUT.items() for name in names.split()}


def _known() -> set[str]:
    return {name.replace("-", "_") for name in (*families(), *MODEL_REMAPPING)}


@pytest.mark.parametrize("name", NAMES)
def test_has_a_family_or_a_reason(name: str) -> None:
    has_family = name.replace("-", "_") in _known()
    assert has_family != (name in REASONS), "has no family and no reason" if not has_family else "needs no reason"


def test_reasons_are_of_targets() -> None:
    assert set(REASONS) <= set(NAMES)
