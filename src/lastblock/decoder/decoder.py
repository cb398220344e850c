"""Decoder: token ids in, hidden states out, block by block. Knows no labels and no text.

The language model's output layer is no part of it: a classifier never needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lastblock.config import AttentionKind
from lastblock.decoder.config import DecoderConfig, Rope
from lastblock.decoder.layers import Block, RotaryTables, make_norm, rotary_tables


class Decoder(nn.Module):
    """Embeddings, the first ``depth`` blocks of a pretrained decoder, and its final norm."""

    def __init__(self, config: DecoderConfig, depth: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.learned_positions:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        kept = config.num_hidden_layers if depth is None else depth
        self.blocks = nn.ModuleList(Block(config, i) for i in range(kept))
        self.norm = make_norm(config)
        self._rotary: dict[tuple[int, torch.dtype], RotaryTables] = {}

    def set_attention(self, kind: AttentionKind) -> None:
        """Let each token see those before it, or with "full" those after it too.

        Then padding is seen by every token: whoever runs texts of different length together gets
        states that depend on it.
        """
        for block in self.blocks:
            block.attn.causal = kind == "causal"  # type: ignore[union-attr]

    @property
    def depth(self) -> int:
        """Blocks kept."""
        return len(self.blocks)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> hidden states before the first block, (B, T, C)."""
        x: Tensor = self.embed_tokens(ids)
        if self.config.embedding_scale != 1.0:
            # Gemma rounds the factor to the weights' dtype first, and so do we.
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)
        if self.config.learned_positions:
            x = x + self.embed_positions.weight[: ids.shape[1]]
        return x

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Hidden states (B, T, C) through blocks start, ..., stop - 1."""
        for index in range(start, stop):
            x = self.blocks[index](x, self.rotary(index, x))
        return x

    def run_at(self, x: Tensor, position: Tensor, index: int) -> Tensor:
        """Hidden states (B, T, C) through one block, at one position of each text: (B, C)."""
        block: Block = self.blocks[index]  # type: ignore[assignment]
        return block.forward_at(x, position, self.rotary(index, x))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> hidden states after every kept block and the final norm."""
        x: Tensor = self.norm(self.run(self.embed(ids), 0, self.depth))
        return x

    def rotary(self, index: int, x: Tensor) -> RotaryTables | None:
        """Block ``index``'s cos and sin for x's length and dtype; computed once for the longest."""
        rope = self.config.ropes[index]
        if rope is None:
            return None
        length, key = x.shape[1], (self._rope_number(rope), x.dtype)
        cached = self._rotary.get(key)
        if cached is None or len(cached[0]) < length:
            room = 1 << (length - 1).bit_length()
            with torch.inference_mode(False), torch.no_grad():
                cos, sin = rotary_tables(rope, self.config.head_dim, room)
                cached = self._rotary[key] = (cos.to(x.dtype), sin.to(x.dtype))
        return cached[0][:length], cached[1][:length]

    def _rope_number(self, rope: Rope) -> int:
        return self.config.ropes.index(rope)
