"""Texts with their labels, and a split of their rows: what every later step is handed.

Knows no file and no format. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lastblock.errors import DataError

Label = str | int
LabelSet = tuple[Label, ...]  # the labels of one text, where it may have several or none
Rows = NDArray[np.int64]
# Runs of punctuation are words too: "!!!" and ":)" tell a lot in short messages.
WORD = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True)
class Examples:
    """Labelled texts in the order of their source.

    ``source`` is what to call them in messages; ``notes`` are plain sentences for the user: which
    source was used, how it was read, what differs from what was asked for. ``columns`` are more
    columns that were asked for, such as who wrote a text and when; ``rows`` says which rows of the
    source these are (from 0; None: all, in order). Where a text may have several labels,
    ``separator`` is what joins them into the one that stands in ``labels``.
    """

    texts: list[str]
    labels: list[Label]
    source: str
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    rows: Rows | None = field(default=None, compare=False)
    separator: str | None = None

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
        taken = np.asarray(rows, np.int64)
        return Examples(
            [self.texts[row] for row in rows],
            [self.labels[row] for row in rows],
            self.source,
            self.notes,
            {name: [values[row] for row in rows] for name, values in self.columns.items()},
            taken if self.rows is None else self.rows[taken],
            self.separator,
        )

    def joined_with(self, other: Examples) -> Examples:
        """These examples and then the other ones, with the columns that both have."""
        columns = {
            name: [*self.columns[name], *other.columns[name]]
            for name in self.columns.keys() & other.columns.keys()
        }
        return Examples(
            self.texts + other.texts,
            self.labels + other.labels,
            self.source,
            self.notes,
            columns,
            separator=self.separator,
        )

    @property
    def targets(self) -> Sequence[Label] | Sequence[LabelSet]:
        """What is to be learnt: the label of each text, or the tuple of its labels."""
        return self.labels if self.separator is None else self.label_sets

    @property
    def label_sets(self) -> list[LabelSet]:
        """The labels of each text, sorted; more than one if there is a ``separator``."""
        if self.separator is None:
            return [(label,) for label in self.labels]
        parts = (str(label).split(self.separator) for label in self.labels)
        return [tuple(sorted({part.strip() for part in of} - {""})) for of in parts]

    def row_ids(self) -> Rows:
        """The row of the source (from 0) that each example is."""
        return np.arange(len(self)) if self.rows is None else self.rows


@dataclass(frozen=True)
class Split:
    """Row numbers (int64, from 0) of the three parts; together every row, none twice."""

    train: Rows
    validation: Rows
    test: Rows


def check_texts(texts: Iterable[str]) -> list[str]:
    """Texts as a list, whatever they came in: a list, an array, a column of a table.

    Raises:
        DataError: there is something among them that is no text, or it is no one column.
    """
    if isinstance(texts, str | bytes):
        raise DataError("one string was given where a list of texts is wanted; put it in a list")
    if hasattr(texts, "__array__"):
        texts = np.asarray(texts)
        if texts.ndim != 1:
            raise DataError(
                f"texts have shape {texts.shape}, wanted one column of them, such as table['text']"
            )
    checked = list(texts)
    for i, text in enumerate(checked):
        if not isinstance(text, str):
            raise DataError(f"text {i} is of type {type(text).__name__}; texts must be strings")
    return checked
