"""Draw the same number of rows from every class. Knows labels only. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lastblock.data.examples import Label, Rows


def undersample(labels: Sequence[Label], *, seed: int) -> Rows:
    """Row numbers (int64): every class drawn, without repeats, down to the smallest.

    Larger classes first, each in the order drawn; then the smallest, in the order of the rows.
    That, and numpy's older generator, is how the book's chapter draws (pandas' ``sample``), so
    the same seed gives the same messages.
    """
    rows_of: dict[Label, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    if not rows_of:
        return np.empty(0, np.int64)
    size = min(len(rows) for rows in rows_of.values())
    larger_first = sorted(rows_of.values(), key=lambda rows: len(rows) == size)
    drawn = [
        np.asarray(rows)[np.random.RandomState(seed).permutation(len(rows))[:size]]
        if len(rows) > size
        else np.asarray(rows)
        for rows in larger_first
    ]
    return np.concatenate(drawn).astype(np.int64)
