"""Convert a GGUF file into a folder that ``loading`` maps: config, weights in our names, tokenizer.

Weights are dequantised to float32, and what llama.cpp's converter did to a checkpoint is undone.
For Llama it reorders the rows of queries and keys, since its rotary embedding pairs neighbours
where the checkpoints pair halves; for Gemma it adds one to the weights of norms. What a file asks
for and these layers do not compute is refused. Knows no text: the tokenizer's facts are copied
as they stand.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.gguf_reader import GGUFFile, GGUFTensor, read_gguf
from lastblock.decoder.loading import (
    CONFIG,
    LAYOUT,
    OURS,
    SOURCE,
    WEIGHTS,
    Found,
    match,
    put,
    shapes_only,
)
from lastblock.decoder.tensor_names import GGUF, places
from lastblock.errors import WeightsError
from lastblock.runtime import Progress, Silent

TOKENIZER = "gguf_tokenizer.json"

# general.architecture -> the family it is computed as.
_FAMILIES = {
    "gpt2": "gpt2",
    "llama": "llama",  # and Mistral
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3_text",
}
# Fields that change what is computed, and the only value that is computed here.
_REFUSED = {
    "expert_count": 0,
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attention.scale": 0.0,
    "use_parallel_residual": False,
    "attn_logit_softcapping": 0.0,
}
# llama.cpp knows these two of Gemma 3 by heart: no file states them.
_GEMMA3_LOCAL_BASE, _GEMMA3_27B_BLOCKS = 10_000.0, 62

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
    "add_eos_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
    "precompiled_charsmap",
)


def convert(
    path: Path, folder: Path, *, source: Mapping[str, Any], progress: Progress | None = None
) -> None:
    """Write ``folder`` from the GGUF file at ``path``, whole or not at all.

    ``source`` is recorded in the folder, with the size of every file in it.

    Raises:
        WeightsError: the file is damaged, or holds what cannot be read exactly.
    """
    file = read_gguf(path)
    raw = config_from_gguf(file)
    try:
        config = DecoderConfig.from_dict(raw)
    except WeightsError as error:
        raise WeightsError(f"{path}: read as {error}") from None
    state = _weights(file, config, progress or Silent())
    facts = {name: file.fields.get(f"tokenizer.ggml.{name}") for name in _TOKENIZER_FIELDS}
    facts = {name: value for name, value in facts.items() if value is not None}
    facts["architecture"] = file.fields["general.architecture"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(state, temporary / WEIGHTS, metadata={LAYOUT: OURS})
        _write_json(temporary / CONFIG, raw)
        _write_json(temporary / TOKENIZER, facts)
        sizes = {each.name: each.stat().st_size for each in temporary.iterdir()}
        _write_json(temporary / SOURCE, {**source, "files": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "free space there or set LASTBLOCK_CACHE to another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """``config.json``, in the names of Hugging Face checkpoints, from a GGUF file's fields.

    Raises:
        WeightsError: a field is missing, or asks for what is not computed here.
    """
    architecture = file.fields.get("general.architecture")
    if architecture not in _FAMILIES:
        raise WeightsError(
            f"{file.path}: GGUF architecture {architecture!r} is not one that lastblock knows; "
            f"it knows {', '.join(_FAMILIES)}"
        )
    if file.fields.get("split.count", 0) > 1:
        raise WeightsError(
            f"{file.path}: is one part of a split model; join it with llama-gguf-split --merge"
        )
    fields = _Fields(file, architecture)
    for name, value in _REFUSED.items():
        if fields.get(name, value) != value:
            raise WeightsError(
                f"{file.path}: GGUF field {architecture}.{name} is {fields.get(name)!r}; "
                f"only {value!r} is computed exactly"
            )
    if "token_embd.weight" not in file.tensors:
        raise WeightsError(f"{file.path}: tensor token_embd.weight is missing; fetch it again")
    shared = {
        "model_type": _FAMILIES[architecture],
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
    }
    read = _gpt2_config if architecture == "gpt2" else _llama_config
    return shared | read(fields)


class _Fields:
    """A GGUF file's fields of its architecture."""

    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self.file, self.architecture = file, architecture

    def __getitem__(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise WeightsError(
                f"{self.file.path}: GGUF field {self.architecture}.{name} is missing"
            )
        return value

    def get(self, name: str, default: Any = None) -> Any:
        value = self.file.fields.get(f"{self.architecture}.{name}", default)
        if isinstance(value, list) and name != "attention.sliding_window_pattern":
            raise WeightsError(
                f"{self.file.path}: GGUF field {self.architecture}.{name} differs by block; "
                "only one value for all blocks is computed"
            )
        return value


def _gpt2_config(fields: _Fields) -> dict[str, Any]:
    return {
        "n_positions": fields["context_length"],
        "n_embd": fields["embedding_length"],
        "n_inner": fields["feed_forward_length"],
        "n_layer": fields["block_count"],
        "n_head": fields["attention.head_count"],
        "layer_norm_epsilon": fields["attention.layer_norm_epsilon"],
    }


def _llama_config(fields: _Fields) -> dict[str, Any]:
    heads, hidden = fields["attention.head_count"], fields["embedding_length"]
    head_dim = fields.get("attention.key_length") or hidden // max(1, heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.get(name, head_dim) != head_dim:
            raise WeightsError(
                f"{fields.file.path}: GGUF field {fields.architecture}.{name} is "
                f"{fields.get(name)}, and a head's size {head_dim}; only equal is computed"
            )
    config = {
        "hidden_size": hidden,
        "intermediate_size": fields["feed_forward_length"],
        "num_hidden_layers": fields["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields["context_length"],
        "rms_norm_eps": fields["attention.layer_norm_rms_epsilon"],
        "rope_theta": fields.get("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(fields),
    }
    window = fields.get("attention.sliding_window")
    if fields.architecture == "gemma3":
        return config | _gemma3_config(fields, config, window)
    if fields.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in fields.file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in fields.file.tensors
        if window:
            config |= {"model_type": "mistral", "sliding_window": window}
    elif window and window < config["max_position_embeddings"]:
        raise WeightsError(
            f"{fields.file.path}: a sliding window of {window} is not computed for "
            f"{fields.architecture} from GGUF: which blocks have it is not stated"
        )
    return config


def _gemma3_config(
    fields: _Fields, config: Mapping[str, Any], window: int | None
) -> dict[str, Any]:
    pattern = fields.get("attention.sliding_window_pattern", 6)
    if pattern != 6:
        raise WeightsError(f"{fields.file.path}: a window pattern of {pattern!r} is not computed")
    largest = config["num_hidden_layers"] == _GEMMA3_27B_BLOCKS
    return {
        "sliding_window": window or config["max_position_embeddings"],
        "rope_local_base_freq": fields.get("rope.freq_base_swa", _GEMMA3_LOCAL_BASE),
        "query_pre_attn_scalar": (
            config["hidden_size"] / config["num_attention_heads"] if largest else config["head_dim"]
        ),
    }


def _rope_scaling(fields: _Fields) -> dict[str, Any] | None:
    """Linear scaling by its factor; Llama 3's as a divisor for each frequency, in a tensor."""
    factors = fields.file.tensors.get("rope_freqs.weight")
    kind = fields.get("rope.scaling.type", "none")
    factor = fields.get("rope.scaling.factor") or fields.get("rope.scale_linear") or 1.0
    if kind not in ("none", "linear") or (factors is not None and factor != 1.0):
        raise WeightsError(
            f"{fields.file.path}: rope scaling {kind!r} is not computed from GGUF; "
            "use the model's safetensors release"
        )
    if factors is not None:
        return {"rope_type": "frequency_factors", "factors": factors.values().tolist()}
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _weights(file: GGUFFile, config: DecoderConfig, progress: Progress) -> dict[str, torch.Tensor]:
    """Our names -> float32 tensors; checked before the first is made."""
    with shapes_only():
        decoder = Decoder(config)
    wanted = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    known = places(GGUF[config.model_type], config, wanted)
    found = {name: Found(file.path, tensor.shape) for name, tensor in file.tensors.items()}
    matched = match(found, known, wanted, file.path)
    state: dict[str, torch.Tensor] = {}
    with progress.task("converting weights", len(matched), "tensors") as advance:
        for name, place in matched.items():
            values = _values(file.tensors[name], file, config)
            put(state, place, torch.from_numpy(values), wanted)
            advance(1)
    return state


def _values(tensor: GGUFTensor, file: GGUFFile, config: DecoderConfig) -> npt.NDArray[np.float32]:
    """A tensor's values as the checkpoint had them before llama.cpp's converter."""
    try:
        values = tensor.values()
    except NotImplementedError:
        raise WeightsError(
            f"{file.path}: tensor {tensor.name} is of type {tensor.kind.name}, which the gguf "
            "library cannot dequantise; use another quantisation of the model"
        ) from None
    module = tensor.name.split(".")[-2]
    if file.fields["general.architecture"] == "llama" and module in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if module == "attn_q" else config.num_key_value_heads
        return _pair_halves(values, heads)
    if config.norm_offset and module.endswith("norm"):
        return values - np.float32(config.norm_offset)
    return values


def _pair_halves(rows: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of neighbours (x0, y0, x1, y1, ...) back to halves (x0, x1, ..., y0, y1, ...)."""
    shape = rows.shape
    paired = rows.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(shape))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
