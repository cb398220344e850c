"""Draw the same number of rows from every class. Knows labels only. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lastblock.data.examples import Label, Rows


def undersample(labels: Sequence[Label], *, seed: int) -> Rows:
    """Row numbers (int64, ascending): every class drawn, without repeats, down to the smallest."""
    rows_of: dict[Label, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    if not rows_of:
        return np.empty(0, np.int64)
    rng = np.random.default_rng(seed)
    size = min(len(rows) for rows in rows_of.values())
    drawn = [rng.choice(rows, size, replace=False) for rows in rows_of.values()]
    return np.sort(np.concatenate(drawn).astype(np.int64))
