"""Token ids to batches: like ones together, filled to a budget of tokens, padded on the right.

Knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Frame:
    """Token ids that stand ``before`` and ``after`` each text's own.

    ``start`` is what the tokenizer puts before everything, or nothing; ``before`` has it already.
    """

    end_of_text: int
    start: TokenIds
    before: TokenIds
    after: TokenIds

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: TokenIds) -> TokenIds:
        """A text's token ids in their place."""
        if not len(self):
            return np.ascontiguousarray(ids)
        start = len(self.start)
        if start and np.array_equal(ids[:start], self.start):
            ids = ids[start:]
        return np.concatenate([self.before, ids, self.after])

    def inside(self, ids: TokenIds) -> TokenIds:
        """A text's own token ids, given what ``around`` made of them."""
        return ids[len(self.before) : len(ids) - len(self.after)]


def shared_batches(
    sequences: Sequence[TokenIds], budget: int, at_once: int = 1
) -> list[npt.NDArray[np.int64]]:
    """Split sequences' numbers into batches, each of at most ``budget`` tokens when padded.

    Those that begin alike stand together, among those of like length, none longer than another by
    a quarter. Longest first: if memory is short it shows at once, and a progress bar only gets
    faster. A sequence longer than the budget is a batch of its own. Where several are computed
    ``at_once`` the last ones are smaller, so that none is computed while nothing else is.
    """
    lengths = [len(ids) for ids in sequences]
    order = sorted(
        range(len(sequences)), key=lambda i: (-_about(lengths[i]), sequences[i].tobytes())
    )
    batches = _filled(order, lengths, budget)
    over = len(batches) % at_once
    if over and len(batches) > at_once:
        rest = [i for batch in batches[-over:] for i in batch]
        tokens = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches[-over:])
        each = tokens // at_once + max(lengths[i] for i in rest)
        batches[-over:] = _filled(rest, lengths, min(budget, each))
    return [np.array(batch, np.int64) for batch in batches]


def _about(length: int) -> int:
    """A length, but for all that comes after its three leading bits."""
    rest = max(0, length.bit_length() - 3)
    return length >> rest << rest


def _filled(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i])
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    return batches


def pad(sequences: Sequence[TokenIds], pad_id: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Token ids (B, T) padded on the right to the longest, and the lengths before that."""
    lengths = [len(ids) for ids in sequences]
    padded = np.full((len(sequences), max(lengths)), pad_id, dtype=np.int64)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    return padded, lengths


def head_and_tail(ids: TokenIds, length: int) -> TokenIds:
    """The first and the last tokens of a sequence that is longer than ``length``.

    A quarter from its beginning, the rest from its end, which for reviews was the better part to
    keep (Sun et al. 2019, section 5.3.1).
    """
    if len(ids) <= length:
        return ids
    head = length // 4
    return np.concatenate([ids[:head], ids[head - length :]])


def windows(ids: TokenIds, length: int) -> list[TokenIds]:
    """A sequence in as few parts as ``length`` allows, all about equally long."""
    parts = int(count_windows(np.array(len(ids)), length))
    return [np.ascontiguousarray(part) for part in np.array_split(ids, parts)]


def count_windows(sizes: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """How many parts ``windows`` makes of sequences of these sizes."""
    return np.maximum(1, -(-sizes // length))
