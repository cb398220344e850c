"""Packing: texts of any length, one row a token, and what several begin with once.

Where no token sees those after it, a token says the same in all texts that are the same up to it:
its row stands for all of them. Knows token ids; no weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Texts share rows among so many, or a single text's: those that do are taken up together, and what
# lies between the products of attention is then little enough to stay in a processor's cache.
TOGETHER = 192


@dataclass(frozen=True)
class Packing:
    """Where the tokens of B texts of up to T tokens are among N rows.

    ``lengths`` (B,): tokens of each. ``shared`` (B,): how many of them, the first ones, are rows of
    texts before it. ``path`` (B, T): each token's row, or the last token's where a text has ended.
    ``own`` (B, T): whether a token's row is here the first time; these are the rows, in order.
    """

    lengths: Tensor
    shared: Tensor
    path: Tensor
    own: Tensor

    def spread(self, rows: Tensor) -> Tensor:
        """Of rows (1, N, ...) each text's, (B, T, ...); its last where it has ended."""
        return rows[0][self.path]

    def gather(self, x: Tensor) -> Tensor:
        """The rows, (1, N, ...), of what each text has, (B, T, ...)."""
        return x[self.own][None]

    def flat_path(self) -> Tensor:
        """Rows of all texts' tokens, one text after the other, (their number,)."""
        return self.path[real(self.lengths, self.path.shape[1])]


def sizes(x: Tensor, packing: Packing | None) -> tuple[int, int]:
    """How many texts there are, and tokens in the longest, of x (B, T, ...), or of packed rows."""
    batch, length = (x if packing is None else packing.path).shape[:2]
    return batch, length


def real(lengths: Tensor, most: int) -> Tensor:
    """Which of so many places texts of such lengths (B,) fill: (B, most)."""
    return torch.arange(most) < lengths[:, None]


def pack(ids: Tensor, lengths: Tensor, *, share: bool) -> Packing:
    """Pack texts, token ids (B, T), padded on the right, of such lengths (B,).

    ``share``: a text has no rows for what it begins with as the one before it does. Texts that
    begin alike should stand together.
    """
    lengths, at = lengths.long(), torch.arange(ids.shape[1])
    filled = real(lengths, len(at))
    shared = torch.zeros(len(ids), dtype=torch.int64)
    if share and len(ids) > 1:
        alike = (ids[1:] == ids[:-1]) & filled[1:] & filled[:-1]
        shared[1:] = alike.long().cumprod(1).sum(1)
        rows = 0
        for i, (length, same) in enumerate(zip(lengths.tolist(), shared.tolist(), strict=True)):
            if rows + length - same > TOGETHER:
                rows = shared[i] = same = 0
            rows += length - same
    own = filled & (at >= shared[:, None])
    number = own.flatten().cumsum(0).view(ids.shape) - 1
    # A token that is not a text's own is the latest one above it.
    path = number.masked_fill(~own, 0).cummax(0).values
    return Packing(lengths, shared, path.gather(1, at.minimum(lengths[:, None] - 1)), own)
