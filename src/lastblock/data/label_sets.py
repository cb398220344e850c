"""Several labels a text: found in a column, taken apart, and split in fair shares.

Knows labels as values only. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lastblock.config import DEFAULT_SEPARATOR
from lastblock.data.examples import Label, LabelSet, Rows

SEPARATORS = "|;,"  # that are looked for


def find_separator(labels: Sequence[Label]) -> str | None:
    """What joins several labels into one, if something does: the joined ones stand alone too."""
    counts = Counter(label for label in labels if isinstance(label, str))
    for separator in SEPARATORS:
        joined = [label for label in counts if separator in label.strip(separator)]
        parts = {part for label in joined for part in label.split(separator)}
        if len(joined) >= 2 and sum(part in counts for part in parts) >= len(parts) / 2:
            return separator
    return None


def known_separator(labels: Sequence[Label], known: Sequence[str]) -> str:
    """What joins labels that are all ``known``; the default, if nothing does."""
    for separator in SEPARATORS:
        parts = {part.strip() for label in set(labels) for part in split_label(label, separator)}
        if parts <= {*known, ""}:
            return separator
    return DEFAULT_SEPARATOR


def split_label(label: Label, separator: str | None) -> list[str]:
    """The labels that one stands for."""
    return str(label).split(separator) if separator else [str(label)]


def membership(sets: Sequence[LabelSet]) -> NDArray[np.bool_]:
    """Whether each row has each label (rows, labels), in the order of their first appearance."""
    known: dict[Label, int] = {}
    pairs = [
        (row, known.setdefault(label, len(known))) for row, of in enumerate(sets) for label in of
    ]
    has = np.zeros((len(sets), len(known)), np.bool_)
    if pairs:
        has[tuple(np.array(pairs).T)] = True
    return has


def stratify(
    has: NDArray[np.bool_], sizes: Rows, fractions: Sequence[float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """The side of each group of rows, so that every label has its ``fractions`` on the sides.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label
    data", ECML PKDD 2011): the rarest label still to be dealt out goes first, group by group, to
    the side that lacks most of it.

    Args:
        has: whether a group has a label, (groups, labels).
        sizes: rows of each group, (groups,).
        fractions: of the rows on each side.
        rng: draws the order of the groups.
    """
    # To have no label is one more label, so that those rows are shared out too.
    has = np.column_stack([has, ~has.any(axis=1)])
    shares = np.array(fractions, dtype=np.float64)
    lacking = shares[:, None] * (has * sizes[:, None]).sum(axis=0)  # (sides, labels)
    room = shares * sizes.sum()
    room[shares == 0] = lacking[shares == 0] = -np.inf
    order = rng.permutation(len(sizes))
    sides = np.full(len(sizes), -1, np.int8)
    left = has.sum(axis=0)
    while left.any():
        label = int(np.where(left > 0, left, len(sizes) + 1).argmin())
        members = order[(sides[order] < 0) & has[order, label]]
        for group in members:
            side = np.lexsort((room, lacking[:, label]))[-1]
            sides[group] = side
            lacking[side, has[group]] -= sizes[group]
            room[side] -= sizes[group]
        left = left - has[members].sum(axis=0)
    return sides
