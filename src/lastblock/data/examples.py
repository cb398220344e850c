"""Texts with their labels, and a split of their rows: what every later step is handed.

Knows no file and no format. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lastblock.errors import DataError

Label = str | int
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Labelled texts in the order of their source.

    ``source`` is what to call them in messages; ``notes`` are plain sentences for the user: which
    source was used, how it was read, what differs from what was asked for.
    """

    texts: list[str]
    labels: list[Label]
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise DataError(
                f"{self.source}: {len(self.texts)} texts and {len(self.labels)} labels; "
                "give one label for each text"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Iterable[int]) -> Examples:
        """The examples of these rows, in this order."""
        rows = [int(row) for row in rows]
        return Examples(
            [self.texts[row] for row in rows],
            [self.labels[row] for row in rows],
            self.source,
            self.notes,
        )


@dataclass(frozen=True)
class Split:
    """Row numbers (int64, from 0) of the three parts; together every row, none twice."""

    train: Rows
    validation: Rows
    test: Rows
