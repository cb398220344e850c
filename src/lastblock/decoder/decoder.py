"""Decoder: token ids in, hidden states out, block by block. Knows no labels and no text.

The language model's output layer is no part of it: a classifier never needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lastblock.config import AttentionKind
from lastblock.decoder.config import DecoderConfig, Rope
from lastblock.decoder.layers import Block, KeysValues, RotaryTables, make_norm, rotary_tables

# Texts up to so many times as long as what they begin with are worth running without it.
WORTH_SHARING = 16


@dataclass(frozen=True)
class Beginning:
    """What the first tokens of many texts come to: as they see no later ones, the same in each.

    ``ids`` (S,) are the tokens, ``states`` their hidden states before the first block and after
    each so far, (1, S, C), and ``keys_values`` what they are to the attention of each.
    """

    ids: Tensor
    states: tuple[Tensor, ...] = ()
    keys_values: tuple[KeysValues, ...] = ()


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
        self._beginning: Beginning | None = None

    def set_attention(self, kind: AttentionKind) -> None:
        """Let each token see those before it, or with "full" those after it too.

        Then padding is seen by every token: whoever runs texts of different length together gets
        states that depend on it.
        """
        self.forget()
        for block in self.blocks:
            block.attn.causal = kind == "causal"  # type: ignore[union-attr]

    def take(self, other: Decoder, blocks: int, *, embed: bool) -> None:
        """Put another decoder's first blocks in place of one's own, and its embeddings if asked."""
        self.forget()
        for index in range(blocks):
            self.blocks[index] = other.blocks[index]
        for name, module in other.named_children():
            if embed and name.startswith("embed"):
                setattr(self, name, module)

    def begin_with(self, ids: Tensor) -> None:
        """Say what most texts begin with, token ids (S,): ``climb`` computes it once for all."""
        self._beginning = Beginning(ids.long()) if len(ids) else None

    def forget(self) -> None:
        """Drop what was computed of that, as weights have changed."""
        if self._beginning is not None:
            self.begin_with(self._beginning.ids.clone())

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle goes without what can be computed anew."""
        state = {**self.__dict__, "_rotary": {}}
        if self._beginning is not None:
            state["_beginning"] = Beginning(self._beginning.ids)
        return state

    def climb(self, ids: Tensor) -> Climb:
        """Texts, token ids (B, T), to be taken up block by block.

        What they begin with is not computed again where that is known (``begin_with``) and worth
        it; and no gradients are wanted.
        """
        begun, length = self._beginning, ids.shape[1]
        if begun is not None:
            first = len(begun.ids)
            worth = first < length <= WORTH_SHARING * first and self._is_causal()
            worth = worth and not torch.is_grad_enabled()
            if not worth or not torch.equal(ids[:, :first], begun.ids.expand(len(ids), first)):
                begun = None
        return Climb(self, ids, begun)

    def _is_causal(self) -> bool:
        return all(block.attn.causal for block in self.blocks)  # type: ignore[union-attr]

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

    def run(self, x: Tensor, start: int, stop: int, after: Beginning | None = None) -> Tensor:
        """Hidden states (B, T, C) through blocks start, ..., stop - 1.

        With ``after``, they are of tokens that stand after those.
        """
        first = 0 if after is None else len(after.ids)
        for index in range(start, stop):
            before = None if after is None else after.keys_values[index]
            x = self.blocks[index](x, self.rotary(index, x, first), before)
        return x

    def reach(self, begun: Beginning, depth: int) -> Beginning:
        """A beginning as far up as a depth; as threads may share a decoder, none is changed."""
        known = self._beginning
        if known is not None and known.ids is begun.ids and len(known.states) > depth:
            return known
        states, keys_values = [*begun.states], [*begun.keys_values]
        with torch.inference_mode(False), torch.no_grad():  # in this order
            if not states:
                states.append(self.embed(begun.ids[None]))
            for index in range(len(states) - 1, depth):
                x, block = states[index], self.blocks[index]
                assert isinstance(block, Block)
                keys_values.append(block.keys_values(x, self.rotary(index, x)))
                states.append(self.run(x, index, index + 1))
        reached = Beginning(begun.ids, tuple(states), tuple(keys_values))
        if known is not None and known.ids is begun.ids:
            self._beginning = reached
        return reached

    def run_at(self, x: Tensor, position: Tensor, index: int) -> Tensor:
        """Hidden states (B, T, C) through one block, at one position of each text: (B, C)."""
        block: Block = self.blocks[index]  # type: ignore[assignment]
        return block.forward_at(x, position, self.rotary(index, x))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> hidden states after every kept block and the final norm."""
        x: Tensor = self.norm(self.run(self.embed(ids), 0, self.depth))
        return x

    def rotary(self, index: int, x: Tensor, first: int = 0) -> RotaryTables | None:
        """Block ``index``'s cos and sin for x's length and dtype; computed once for the longest.

        ``first``: the position of x's first token.
        """
        rope = self.config.ropes[index]
        if rope is None:
            return None
        length, key = first + x.shape[1], (self._rope_number(rope), x.dtype)
        cached = self._rotary.get(key)
        if cached is None or len(cached[0]) < length:
            room = 1 << (length - 1).bit_length()
            with torch.inference_mode(False), torch.no_grad():
                cos, sin = rotary_tables(rope, self.config.head_dim, room)
                cached = self._rotary[key] = (cos.to(x.dtype), sin.to(x.dtype))
        return cached[0][first:length], cached[1][first:length]

    def _rope_number(self, rope: Rope) -> int:
        return self.config.ropes.index(rope)


class Climb:
    """Texts on their way up through a decoder, token ids (B, T); see ``Decoder.climb``."""

    def __init__(self, decoder: Decoder, ids: Tensor, begun: Beginning | None) -> None:
        self._decoder, self._begun, self.depth = decoder, begun, 0
        self._own = decoder.embed(ids)
        if begun is not None:
            self._own = self._own[:, len(begun.ids) :]

    def to(self, depth: int) -> Climb:
        """Up to where so many blocks are below; no way leads down."""
        if self._begun is not None:
            self._begun = self._decoder.reach(self._begun, depth)
        self._own = self._decoder.run(self._own, self.depth, depth, self._begun)
        self.depth = depth
        return self

    def states(self) -> Tensor:
        """Hidden states here, (B, T, C)."""
        first = self._first()
        if first is None:
            return self._own
        return torch.cat((first.expand(len(self._own), -1, -1), self._own), dim=1)

    def pooled(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Last token's states and mean states of texts of such lengths (B,): each (B, C), float32.

        ``states`` are not put together for that.
        """
        first, x = self._first(), self._own.float()
        if first is not None and lengths.min() <= first.shape[1]:  # nothing follows
            first, x = None, self.states().float()
        before = 0 if first is None else first.shape[1]
        own = lengths - before
        total = sum_states(x, own)
        if first is not None:
            total += first.float().sum(1)
        return x[torch.arange(len(x)), own - 1], total / lengths[:, None]

    def _first(self) -> Tensor | None:
        """Hidden states here of what the texts begin with, (1, S, C), if that is known."""
        return None if self._begun is None else self._begun.states[self.depth]


def sum_states(x: Tensor, lengths: Tensor) -> Tensor:
    """The sum of each text's real tokens: (B, T, C) and lengths (B,) -> (B, C)."""
    real = torch.arange(x.shape[1]) < lengths[:, None]  # (B, T)
    return (x * real[..., None]).sum(1)
