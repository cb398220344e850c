"""Decoder: token ids in, hidden states out, block by block. Knows no labels and no text.

The language model's output layer is no part of it: a classifier never needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.config import AttentionKind
from lastblock.decoder import kernels
from lastblock.decoder.config import DecoderConfig, Rope
from lastblock.decoder.layers import Block, KeysValues, RotaryTables, make_norm, rotary_tables
from lastblock.decoder.packing import Packing, pack, real, sizes


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

    def climb(self, ids: Tensor, lengths: Tensor) -> Climb:
        """Texts, token ids (B, T), padded on the right, of such lengths (B,), to be taken up.

        What they begin with is not computed again where that is known (``begin_with``) and no
        gradients are wanted; nor what texts that stand one after the other begin with.
        """
        begun = self._beginning
        if begun is not None:
            first = len(begun.ids)
            worth = self.is_causal() and not torch.is_grad_enabled()
            worth = worth and bool((lengths > first).all())  # all that follows has a last token
            if not worth or not torch.equal(ids[:, :first], begun.ids.expand(len(ids), first)):
                begun = None
        return Climb(self, ids, lengths, begun)

    def is_causal(self) -> bool:
        """Whether no token sees those after it."""
        return all(block.attn.causal for block in self.blocks)  # type: ignore[union-attr]

    @property
    def depth(self) -> int:
        """Blocks kept."""
        return len(self.blocks)

    def embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Token ids (B, T) -> hidden states before the first block, (B, T, C).

        ``positions`` (T,), if they are not 0, 1, 2, ...
        """
        x: Tensor = self.embed_tokens(ids)
        if self.config.embedding_scale != 1.0:
            # Gemma rounds the factor to the weights' dtype first, and so do we.
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)
        if self.config.learned_positions:
            at = slice(ids.shape[1]) if positions is None else positions
            x = x + self.embed_positions.weight[at]
        return x

    def run(
        self,
        x: Tensor,
        start: int,
        stop: int,
        after: Beginning | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Hidden states (B, T, C) through blocks start, ..., stop - 1.

        With ``after``, they are of tokens that stand after those; with ``packing``, rows (1, N, C)
        that are packed so.
        """
        first = 0 if after is None else len(after.ids)
        batch, length = sizes(x, packing)
        before = [None if after is None else after.keys_values[i] for i in range(start, stop)]
        packed = self._packed(start, stop)
        if packed and all(kernels.worth_attending(batch, length, of.heads) for of in packed):
            tables = self._tables(start, stop, length, first)
            return kernels.run_blocks(x, packed, tables, before, packing)
        for index, own in zip(range(start, stop), before, strict=True):
            x = self.blocks[index](x, self.rotary(index, x.dtype, length, first), own, packing)
        return x

    def _tables(self, start: int, stop: int, length: int, first: int) -> list[RotaryTables | None]:
        """``rotary`` of blocks, which mostly have the same, in float32."""
        known: dict[int, RotaryTables | None] = {}
        numbers = [id(rope) for rope in self.config.ropes[start:stop]]
        for index, number in enumerate(numbers, start):
            if number not in known:
                known[number] = self.rotary(index, torch.float32, length, first)
        return [known[number] for number in numbers]

    def _packed(self, start: int, stop: int) -> list[kernels.PackedBlock]:
        """These blocks as kernels take them; none, if one of them is not for kernels."""
        found = []
        for index in range(start, stop):
            packed = self.blocks[index].packed()  # type: ignore[operator]
            if packed is None:
                return []
            found.append(packed)
        return found

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
                tables = self.rotary(index, x.dtype, x.shape[1])
                keys_values.append(block.keys_values(x, tables))
                states.append(self.run(x, index, index + 1))
        reached = Beginning(begun.ids, tuple(states), tuple(keys_values))
        if known is not None and known.ids is begun.ids:
            self._beginning = reached
        return reached

    def run_at(self, x: Tensor, position: Tensor, index: int) -> Tensor:
        """Hidden states (B, T, C) through one block, at one position of each text: (B, C)."""
        block: Block = self.blocks[index]  # type: ignore[assignment]
        return block.forward_at(x, position, self.rotary(index, x.dtype, x.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, T) -> hidden states after every kept block and the final norm."""
        x: Tensor = self.norm(self.run(self.embed(ids), 0, self.depth))
        return x

    def rotary(
        self, index: int, dtype: torch.dtype, length: int, first: int = 0
    ) -> RotaryTables | None:
        """Block ``index``'s cos and sin for so many positions; computed once for the longest.

        ``first``: the first of them.
        """
        rope = self.config.ropes[index]
        if rope is None:
            return None
        end, key = first + length, (self._rope_number(rope), dtype)
        cached = self._rotary.get(key)
        if cached is None or len(cached[0]) < end:
            room = 1 << (end - 1).bit_length()
            with torch.inference_mode(False), torch.no_grad():
                cos, sin = rotary_tables(rope, self.config.head_dim, room)
                cached = self._rotary[key] = (cos.to(dtype), sin.to(dtype))
        return cached[0][first:end], cached[1][first:end]

    def _rope_number(self, rope: Rope) -> int:
        return self.config.ropes.index(rope)


class Climb:
    """Texts on their way up through a decoder; see ``Decoder.climb``."""

    def __init__(
        self, decoder: Decoder, ids: Tensor, lengths: Tensor, begun: Beginning | None
    ) -> None:
        self._decoder, self._begun, self.depth = decoder, begun, 0
        self._first = 0 if begun is None else len(begun.ids)
        ids = ids[:, self._first :]
        self._packing = pack(ids, lengths - self._first, share=decoder.is_causal())
        own = self._packing.own
        self._rows = decoder.embed(ids[own][None], own.nonzero()[:, 1] + self._first)  # (1, N, C)

    def to(self, depth: int) -> Climb:
        """Up to where so many blocks are below; no way leads down."""
        if self._begun is not None:
            self._begun = self._decoder.reach(self._begun, depth)
        self._rows = self._decoder.run(self._rows, self.depth, depth, self._begun, self._packing)
        self.depth = depth
        return self

    def states(
        self, above: Sequence[Tensor] = (), dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """Hidden states here, of each text as many as it has tokens: (its tokens, C).

        Before them stands a row of each of ``above``, (B, C). All in ``dtype``; none given, in what
        they are.
        """
        path, count = self._packing.path, len(self._packing.lengths)
        parts = [*above, *self._beginning(), self._rows[0]]
        parts = [part.to(dtype or part.dtype) for part in parts]
        # Of each text a number in each of ``above``, all that it begins with, and its own rows.
        each = torch.arange(count)[:, None] + torch.arange(0, len(above) * count, count or 1)
        start = len(above) * count
        first = torch.arange(start, start + self._first).expand(count, -1)
        wanted = torch.cat((each, first, path + start + self._first), dim=1)
        rows = self._packing.lengths + len(above) + self._first
        flat = torch.cat(parts)[wanted[real(rows, wanted.shape[1])]]
        return list(flat.split(rows.tolist()))

    def pooled(self) -> tuple[Tensor, Tensor]:
        """Last token's states and mean states of each text: each (B, C), float32."""
        packing, x = self._packing, self._rows[0].float()
        last = x[packing.path.gather(1, packing.lengths[:, None] - 1)[:, 0]]
        starts = packing.lengths.cumsum(0) - packing.lengths
        total = F.embedding_bag(packing.flat_path(), x, starts, mode="sum")
        for first in self._beginning():
            total += first.float().sum(0)
        return last, total / (packing.lengths + self._first)[:, None]

    def _beginning(self) -> list[Tensor]:
        """Hidden states here of what the texts begin with, (S, C), if that is known."""
        return [] if self._begun is None else [self._begun.states[self.depth][0]]


def sum_states(x: Tensor, lengths: Tensor) -> Tensor:
    """The sum of each text's real tokens: (B, T, C) and lengths (B,) -> (B, C)."""
    return (x * real(lengths, x.shape[1])[..., None]).sum(1)
