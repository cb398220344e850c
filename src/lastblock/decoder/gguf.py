"""Convert a GGUF file into a folder that ``loading`` maps: config, weights in our names, tokenizer.

Weights are dequantised to float32 by the `gguf` library, exactly as llama.cpp would, and what its
converter did to a checkpoint is undone: for Llama it reorders the rows of queries and keys, since
its rotary embedding pairs neighbours where the checkpoints pair halves. Knows no text: the
tokenizer's facts are copied as they stand.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file

from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.tensor_names import gguf_place
from lastblock.errors import WeightsError
from lastblock.runtime import Progress, Silent

CONFIG, WEIGHTS, TOKENIZER, SOURCE = (
    "config.json",
    "model.safetensors",
    "gguf_tokenizer.json",
    "source.json",
)
LAYOUT = {"layout": "lastblock"}  # the safetensors header says that the names are ours

_TOKENIZER_FIELDS = (
    "model",
    "pre",
    "tokens",
    "token_type",
    "merges",
    "scores",
    "bos_token_id",
    "eos_token_id",
    "unknown_token_id",
    "add_bos_token",
    "add_space_prefix",
)


def convert(
    path: Path, folder: Path, *, source: dict[str, Any], progress: Progress | None = None
) -> None:
    """Write ``folder`` from the GGUF file at ``path``, whole or not at all.

    ``source`` is recorded in the folder, with the size of every file in it.

    Raises:
        WeightsError: the file is damaged, or holds what cannot be read exactly.
    """
    reader = _open(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    raw = config_from_fields(fields, path)
    config = DecoderConfig.from_dict(raw)
    state = _tensors(reader, config, path, progress or Silent())
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(state, temporary / WEIGHTS, metadata=LAYOUT)
        _write_json(temporary / CONFIG, raw)
        _write_json(temporary / TOKENIZER, _tokenizer_facts(fields))
        sizes = {p.name: p.stat().st_size for p in temporary.iterdir()}
        _write_json(temporary / SOURCE, {**source, "files": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def config_from_fields(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """``config.json``, in the names of Hugging Face checkpoints, from GGUF metadata."""
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise WeightsError(f"{path}: GGUF architecture {architecture!r} is not known; known: llama")

    def get(name: str) -> Any:
        key = f"{architecture}.{name}"
        if key not in fields:
            raise WeightsError(f"{path}: GGUF field {key} is missing")
        return fields[key]

    heads = get("attention.head_count")
    return {
        "model_type": "llama",
        "vocab_size": len(fields.get("tokenizer.ggml.tokens") or []),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get(f"{architecture}.attention.head_count_kv", heads),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.get(f"{architecture}.rope.freq_base", 10_000.0),
    }


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise WeightsError(f"{path}: is no readable GGUF file ({error})") from None


def _tensors(
    reader: GGUFReader, config: DecoderConfig, path: Path, progress: Progress
) -> dict[str, torch.Tensor]:
    """Our names -> float32 tensors; fused ones are filled row range by row range."""
    state: dict[str, torch.Tensor] = {}
    with progress.task("converting weights", len(reader.tensors), "tensors") as advance:
        for tensor in reader.tensors:
            try:
                place = gguf_place(tensor.name, config)
            except KeyError:
                raise WeightsError(f"{path}: tensor {tensor.name} is not known") from None
            if place is not None:
                value = torch.from_numpy(_dequantised(tensor, config))
                if place.start is None:
                    state[place.name] = value
                else:
                    _put_rows(state, place.name, place.start, value, config)
            advance(1)
    return state


def _dequantised(tensor: Any, config: DecoderConfig) -> np.ndarray[Any, np.dtype[np.float32]]:
    value = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if tensor.name.endswith("attn_q.weight"):
        return _pair_halves(value, config.num_attention_heads)
    if tensor.name.endswith("attn_k.weight"):
        return _pair_halves(value, config.num_key_value_heads)
    return value


def _pair_halves(
    rows: np.ndarray[Any, np.dtype[np.float32]], heads: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of neighbours (x0, y0, x1, y1, ...) back to halves (x0, x1, ..., y0, y1, ...)."""
    shape = rows.shape
    paired = rows.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(shape))


def _put_rows(
    state: dict[str, torch.Tensor],
    name: str,
    start: int,
    value: torch.Tensor,
    config: DecoderConfig,
) -> None:
    if name not in state:
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        qkv = ".qkv." in name
        rows = heads * config.head_dim if qkv else 2 * config.intermediate_size
        state[name] = torch.empty(rows, *value.shape[1:])
    state[name][start : start + len(value)] = value


def _tokenizer_facts(fields: dict[str, Any]) -> dict[str, Any]:
    named = {name: fields.get(f"tokenizer.ggml.{name}") for name in _TOKENIZER_FIELDS}
    return {name: value for name, value in named.items() if value is not None}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
