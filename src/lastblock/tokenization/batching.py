"""Token ids to batches: sorted by length, filled to a budget of tokens, padded on the right.

Knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Split 0 ... n-1 into batches of like length, each at most ``budget`` tokens when padded.

    Longest first: if memory is short it shows at once, and a progress bar only gets faster. A
    sequence longer than the budget is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(sequences: Sequence[TokenIds], pad_id: int) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Token ids (B, T) padded on the right to the longest, and the lengths before that."""
    lengths = [len(ids) for ids in sequences]
    padded = np.full((len(sequences), max(lengths)), pad_id, dtype=np.int64)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    return padded, lengths
