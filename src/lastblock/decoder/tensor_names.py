"""Checkpoint name -> our name, a table for each family and format.

A place is our name, and where a fused tensor takes the checkpoint's as some of its rows, which
rows. ``None`` is dropped: the language model's output layer, and buffers computed here. A name
in no table is an error of the caller's to raise. Knows names and shapes; touches no tensor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lastblock.decoder.config import DecoderConfig


@dataclass(frozen=True)
class Place:
    """Where a checkpoint's tensor goes: rows ``start:stop`` of ours, or all of it."""

    name: str
    start: int | None = None
    stop: int | None = None
    transposed: bool = False  # GPT-2's Conv1D stores (in, out)


def _fused(config: DecoderConfig) -> dict[str, tuple[str, int, int]]:
    """The projections that are one product here: part -> (our module, first row, last row + 1)."""
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    inner = config.intermediate_size
    return {
        "q": ("attn.qkv", 0, q),
        "k": ("attn.qkv", q, q + kv),
        "v": ("attn.qkv", q + kv, q + 2 * kv),
        "gate": ("mlp.gate_up", 0, inner),
        "up": ("mlp.gate_up", inner, 2 * inner),
    }


_GGUF_TOP = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": None,
    "rope_freqs.weight": None,
}
_GGUF_BLOCK = {
    "attn_norm": "attn_norm",
    "attn_output": "attn.out",
    "ffn_norm": "mlp_norm",
    "ffn_down": "mlp.down",
}
_GGUF_FUSED = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "ffn_gate": "gate",
    "ffn_up": "up",
}
_GGUF_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def gguf_place(name: str, config: DecoderConfig) -> Place | None:
    """Where a GGUF tensor goes; None is dropped.

    Raises:
        KeyError: the name is in no table.
    """
    if name in _GGUF_TOP:
        ours = _GGUF_TOP[name]
        return None if ours is None else Place(ours)
    match = _GGUF_NAME.fullmatch(name)
    if match is None:
        raise KeyError(name)
    index, part, kind = match.groups()
    if part in _GGUF_FUSED:
        module, start, stop = _fused(config)[_GGUF_FUSED[part]]
        return Place(f"blocks.{index}.{module}.{kind}", start, stop)
    return Place(f"blocks.{index}.{_GGUF_BLOCK[part]}.{kind}")
