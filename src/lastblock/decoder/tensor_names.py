"""Checkpoint name -> our name: a table for each family and format.

``{i}`` is a block's number. Modules stand without ``.weight`` and ``.bias``, which are kept. In
brackets is the part of a fused product that a checkpoint's tensor becomes. ``None`` is dropped,
and stands for the whole name of a tensor: the language model's output layer, and buffers that are
computed here. A name in no table is an error. Knows names and shapes; touches no tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lastblock.decoder.config import DecoderConfig

_GPT2 = {
    "transformer.wte": "embed_tokens",
    "transformer.wpe": "embed_positions",
    "transformer.ln_f": "norm",
    "transformer.h.{i}.ln_1": "blocks.{i}.attn_norm",
    "transformer.h.{i}.attn.c_attn": "blocks.{i}.attn.qkv",
    "transformer.h.{i}.attn.c_proj": "blocks.{i}.attn.out",
    "transformer.h.{i}.ln_2": "blocks.{i}.mlp_norm",
    "transformer.h.{i}.mlp.c_fc": "blocks.{i}.mlp.up",
    "transformer.h.{i}.mlp.c_proj": "blocks.{i}.mlp.down",
    "transformer.h.{i}.attn.bias": None,
    "transformer.h.{i}.attn.masked_bias": None,
    "lm_head.weight": None,
}
_LLAMA = {
    "model.embed_tokens": "embed_tokens",
    "model.norm": "norm",
    "model.layers.{i}.input_layernorm": "blocks.{i}.attn_norm",
    "model.layers.{i}.self_attn.q_proj": "blocks.{i}.attn.qkv[q]",
    "model.layers.{i}.self_attn.k_proj": "blocks.{i}.attn.qkv[k]",
    "model.layers.{i}.self_attn.v_proj": "blocks.{i}.attn.qkv[v]",
    "model.layers.{i}.self_attn.q_norm": "blocks.{i}.attn.q_norm",
    "model.layers.{i}.self_attn.k_norm": "blocks.{i}.attn.k_norm",
    "model.layers.{i}.self_attn.o_proj": "blocks.{i}.attn.out",
    "model.layers.{i}.post_attention_layernorm": "blocks.{i}.mlp_norm",
    "model.layers.{i}.mlp.gate_proj": "blocks.{i}.mlp.gate_up[gate]",
    "model.layers.{i}.mlp.up_proj": "blocks.{i}.mlp.gate_up[up]",
    "model.layers.{i}.mlp.down_proj": "blocks.{i}.mlp.down",
    "model.layers.{i}.self_attn.rotary_emb.inv_freq": None,
    "lm_head.weight": None,
}
_GEMMA3 = {
    **_LLAMA,
    "model.layers.{i}.post_attention_layernorm": "blocks.{i}.attn_post_norm",
    "model.layers.{i}.pre_feedforward_layernorm": "blocks.{i}.mlp_norm",
    "model.layers.{i}.post_feedforward_layernorm": "blocks.{i}.mlp_post_norm",
}
_GGUF = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "blk.{i}.attn_norm": "blocks.{i}.attn_norm",
    "blk.{i}.attn_q": "blocks.{i}.attn.qkv[q]",
    "blk.{i}.attn_k": "blocks.{i}.attn.qkv[k]",
    "blk.{i}.attn_v": "blocks.{i}.attn.qkv[v]",
    "blk.{i}.attn_q_norm": "blocks.{i}.attn.q_norm",
    "blk.{i}.attn_k_norm": "blocks.{i}.attn.k_norm",
    "blk.{i}.attn_output": "blocks.{i}.attn.out",
    "blk.{i}.post_attention_norm": "blocks.{i}.attn_post_norm",
    "blk.{i}.ffn_norm": "blocks.{i}.mlp_norm",
    "blk.{i}.ffn_gate": "blocks.{i}.mlp.gate_up[gate]",
    "blk.{i}.ffn_up": "blocks.{i}.mlp.gate_up[up]",
    "blk.{i}.ffn_down": "blocks.{i}.mlp.down",
    "blk.{i}.post_ffw_norm": "blocks.{i}.mlp_post_norm",
    "rope_freqs.weight": None,  # read as a part of the configuration
    "output.weight": None,
}
_GGUF_GPT2 = {
    **{theirs: ours for theirs, ours in _GGUF.items() if not (ours or "").endswith("]")},
    "position_embd": "embed_positions",
    "blk.{i}.attn_qkv": "blocks.{i}.attn.qkv",
    "blk.{i}.ffn_up": "blocks.{i}.mlp.up",
}

CHECKPOINT: Mapping[str, Mapping[str, str | None]] = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": _GEMMA3,
}
GGUF: Mapping[str, Mapping[str, str | None]] = {
    family: _GGUF_GPT2 if family == "gpt2" else _GGUF for family in CHECKPOINT
}

# A checkpoint of the bare decoder, saved without its language model, has no such prefix.
PREFIXES = ("model.", "transformer.")


@dataclass(frozen=True)
class Place:
    """Where a checkpoint's tensor goes: rows ``start:stop`` of ours, or all of it."""

    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False  # GPT-2's Conv1D stores (in, out)


def places(
    table: Mapping[str, str | None], config: DecoderConfig, ours: Collection[str]
) -> dict[str, Place | None]:
    """Every name that a checkpoint may have -> where it goes; None is dropped.

    ``ours`` are the names of a decoder with at least one block: of the tables' modules, those
    that this configuration has.
    """
    found: dict[str, Place | None] = {}
    parts = _parts(config)
    for theirs, module in table.items():
        numbers = range(config.num_hidden_layers if "{i}" in theirs else 1)
        if module is None:
            found.update((theirs.format(i=i), None) for i in numbers)
            continue
        module, _, part = module.rstrip("]").partition("[")
        rows = parts[part] if part else None
        for kind in ("weight", "bias"):
            if f"{module.format(i=0)}.{kind}" in ours:
                turned = table is _GPT2 and kind == "weight" and ".c_" in theirs
                for i in numbers:
                    place = Place(f"{module.format(i=i)}.{kind}", rows, turned)
                    found[f"{theirs.format(i=i)}.{kind}"] = place
    return found


def _parts(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """Rows of each part of a product that is one here: queries, keys and values; gate and up."""
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    inner = config.intermediate_size
    return {
        "q": (0, q),
        "k": (q, q + kv),
        "v": (q + kv, q + 2 * kv),
        "gate": (0, inner),
        "up": (inner, 2 * inner),
    }
