"""Write small GGUF files for tests, from scratch, so that the reader is not tested against itself."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
TYPE_NUMBERS |= {"IQ2_XS": 17, "MXFP4": 39}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Any) -> bytes:
    """A metadata value with its type number."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        items = [typed(item) for item in value]
        kind = items[0][:4] if items else struct.pack("<I", 4)
        return struct.pack("<I", 9) + kind + struct.pack("<Q", len(items)) + b"".join(item[4:] for item in items)
    raise TypeError(value)


Tensor = tuple[str, tuple[int, ...], str, bytes]  # name, row-major shape, type name, data


def gguf_bytes(metadata: dict[str, Any], tensors: list[Tensor], *, version: int = 3, alignment: int = 32) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += text(key) + typed(value)
    data = b""
    for name, shape, kind, raw in tensors:
        data += b"\0" * (-len(data) % alignment)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        out += text(name) + dims + struct.pack("<IQ", TYPE_NUMBERS[kind], len(data))
        data += raw
    return out + b"\0" * (-len(out) % alignment) + data


def floats(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def f32(name: str, array: np.ndarray) -> Tensor:
    return name, array.shape, "F32", array.astype("<f4").tobytes()


def q8_0(name: str, array: np.ndarray) -> Tensor:
    """Quantize rows to Q8_0."""
    blocks = array.reshape(-1, 32)
    scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    codes = np.rint(blocks / np.maximum(scale.astype(np.float32), 1e-8)).astype(np.int8)
    raw = np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], axis=1)
    return name, array.shape, "Q8_0", raw.tobytes()


def base_metadata(architecture: str = "llama", **extra: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "general.architecture": architecture,
        f"{architecture}.block_count": 1,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": 64,
        f"{architecture}.feed_forward_length": 96,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "é"],
        "tokenizer.ggml.eos_token_id": 2,
    }
    return metadata | {key.replace("__", "."): value for key, value in extra.items()}


def llama_tensors() -> list[Tensor]:
    """A one-layer llama with every kind of tensor: dense norms, Q8_0 matrices, tied embeddings."""
    q8 = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    q8 |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
    tensors = [q8_0("token_embd.weight", floats((3, 64), 1)), f32("output_norm.weight", floats((64,), 2))]
    tensors += [f32(f"blk.0.{name}.weight", floats((64,), 3)) for name in ("attn_norm", "ffn_norm")]
    tensors += [q8_0(f"blk.0.{name}.weight", floats(shape, 4 + i)) for i, (name, shape) in enumerate(q8.items())]
    return tensors


def write(path: Path, metadata: dict[str, Any], tensors: list[Tensor], **options: int) -> Path:
    path.write_bytes(gguf_bytes(metadata, tensors, **options))
    return path
