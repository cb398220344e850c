"""Split rows into train, validation and test so that the score is true.

Equal texts (after ``normalise``) stay on one side, else a model is tested on what it has learnt by
heart. Knows texts and labels as values only. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lastblock.data.examples import Label, Rows, Split
from lastblock.data.inspection import normalise
from lastblock.errors import ConfigError, DataError

_TRAIN, _VALIDATION, _TEST = 0, 1, 2


def stratified_split(
    texts: Sequence[str],
    labels: Sequence[Label],
    *,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int,
) -> Split:
    """Split by label, with equal normalised texts on one side; row numbers ascending.

    Sizes are as near to ``fractions`` (train, validation, test) as classes and repeated texts
    allow; a repeated text counts for the label that most of its rows have. Every class has an
    example in train; in small data, validation and test get one where train can spare it.

    Raises:
        ConfigError: fractions that are negative, do not sum to 1, or leave nothing for train.
        DataError: no rows, or not one label for each text.
    """
    sides = _assign(texts, labels, fractions, seed)
    train, validation, test = (np.flatnonzero(sides == side) for side in range(3))
    return Split(train, validation, test)


def holdout(
    texts: Sequence[str], labels: Sequence[Label], *, fraction: float, seed: int
) -> tuple[Rows, Rows]:
    """Rows to keep and rows to hold out, by the rules of ``stratified_split``."""
    sides = _assign(texts, labels, (1 - fraction, fraction, 0.0), seed)
    return np.flatnonzero(sides == _TRAIN), np.flatnonzero(sides == _VALIDATION)


def shuffled_split(n: int, *, seed: int) -> Split:
    """The book's split of ``n`` rows: shuffle, then int(0.7 n), int(0.1 n) and the rest.

    Row numbers in the order drawn, by numpy's older generator, as pandas' ``sample`` has it in
    the book. It regards neither labels nor repeated texts.
    """
    rows = np.random.RandomState(seed).permutation(n).astype(np.int64)
    train, validation = int(0.7 * n), int(0.1 * n)
    return Split(rows[:train], rows[train : train + validation], rows[train + validation :])


@dataclass
class _Groups:
    """Rows by group of equal texts. ``members`` holds all rows, one group after the other."""

    of_row: Rows  # (rows,) the group of each row
    sizes: Rows  # (groups,)
    labels: Rows  # (groups,) the code of the label that most of its rows have
    members: Rows  # (rows,)
    starts: Rows  # (groups,)

    def rows(self, group: int) -> Rows:
        start = self.starts[group]
        return self.members[start : start + self.sizes[group]]


def _assign(
    texts: Sequence[str],
    labels: Sequence[Label],
    fractions: tuple[float, float, float],
    seed: int,
) -> NDArray[np.int8]:
    """The side of each row: 0 train, 1 validation, 2 test; shape (rows,)."""
    _check(texts, labels, fractions)
    codes = _codes(labels)
    groups = _group(_codes(map(normalise, texts)), codes)
    rng = np.random.default_rng(seed)
    sides = np.zeros(len(groups.sizes), np.int8)
    carried = dict.fromkeys((_TEST, _VALIDATION), 0.0)
    for members in _by_class(groups, rng):
        _draw(members, groups.sizes, fractions, carried, sides)
    _bring_every_class_to_train(groups, codes, sides)
    for side in carried:
        if fractions[side] > 0 and not (sides == side).any():
            _spare_a_group(groups, codes, sides, side, rng)
    return sides[groups.of_row]


def _check(
    texts: Sequence[str], labels: Sequence[Label], fractions: tuple[float, float, float]
) -> None:
    if min(fractions) < 0 or fractions[_TRAIN] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            f"fractions are {fractions}; they must be none negative, sum to 1 and leave some "
            "rows to train on"
        )
    if len(texts) != len(labels) or not len(texts):
        raise DataError(
            f"{len(texts)} texts and {len(labels)} labels cannot be split; give one label for "
            "each text, and at least one text"
        )


def _codes(values: Iterable[Hashable]) -> Rows:
    """Whole numbers from 0 in the order of first appearance, equal for equal values."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)


def _group(of_row: Rows, codes: Rows) -> _Groups:
    sizes = np.bincount(of_row)
    n_classes = int(codes.max()) + 1
    pairs, counts = np.unique(of_row * n_classes + codes, return_counts=True)
    group, code = np.divmod(pairs, n_classes)
    order = np.lexsort((code, -counts, group))  # in each group the most frequent label first
    _, first = np.unique(group[order], return_index=True)
    return _Groups(
        of_row=of_row,
        sizes=sizes,
        labels=code[order][first],
        members=np.argsort(of_row, kind="stable"),
        starts=np.concatenate(([0], np.cumsum(sizes)[:-1])),
    )


def _by_class(groups: _Groups, rng: np.random.Generator) -> Iterator[Rows]:
    """The groups of each class, shuffled."""
    order = rng.permutation(len(groups.sizes))
    labels = groups.labels[order]
    order = order[np.argsort(labels, kind="stable")]
    _, starts = np.unique(np.sort(labels), return_index=True)
    yield from np.split(order, starts[1:])


def _draw(
    members: Rows,
    sizes: Rows,
    fractions: tuple[float, float, float],
    carried: dict[int, float],
    sides: NDArray[np.int8],
) -> None:
    """Draw one class's groups for test and validation; the rest stays in train.

    What rounding takes from one class is ``carried`` to the next, so that the totals come out
    right; never more than one row, so that no class pays for another's large groups.
    """
    total = int(sizes[members].sum())
    left = members[:-1]  # one group always stays in train
    for side, owed in carried.items():
        wanted = total * fractions[side] + owed
        taken = _take(left, sizes, round(wanted))
        sides[left[taken]] = side
        carried[side] = float(np.clip(wanted - sizes[left[taken]].sum(), -1, 1))
        left = left[~taken]


def _take(groups: Rows, sizes: Rows, wanted: int) -> NDArray[np.bool_]:
    """A mask of groups, in the order given, that together come nearest to ``wanted`` rows."""
    taken = np.zeros(len(groups), bool)
    for index, size in enumerate(sizes[groups].tolist()):
        if wanted <= 0:
            break
        if size <= wanted:
            taken[index] = True
            wanted -= size
    rest = np.flatnonzero(~taken)
    if wanted > 0 and len(rest):
        smallest = rest[np.argmin(sizes[groups[rest]])]
        if sizes[groups[smallest]] - wanted < wanted:
            taken[smallest] = True
    return taken


def _bring_every_class_to_train(groups: _Groups, codes: Rows, sides: NDArray[np.int8]) -> None:
    """Move a group of each class that train lacks: one whose texts mostly stand under others."""
    missing = np.setdiff1d(codes, codes[sides[groups.of_row] == _TRAIN])
    rows = np.flatnonzero(np.isin(codes, missing))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    _, starts = np.unique(codes[rows], return_index=True)
    for rows_of_class in np.split(rows, starts[1:]):
        candidates = groups.of_row[rows_of_class]
        if len(candidates) and not (sides[candidates] == _TRAIN).any():
            sides[candidates[np.argmin(groups.sizes[candidates])]] = _TRAIN


def _spare_a_group(
    groups: _Groups,
    codes: Rows,
    sides: NDArray[np.int8],
    side: int,
    rng: np.random.Generator,
) -> None:
    """Give an empty side the smallest group that train can spare, of the largest class there.

    Train can spare a group if each of the group's classes has other rows there. If there is none,
    the other small side gives a group if it has two.
    """
    n_classes = int(codes.max()) + 1
    in_train = np.bincount(codes[sides[groups.of_row] == _TRAIN], minlength=n_classes)
    order = np.lexsort((rng.permutation(len(sides)), -in_train[groups.labels], groups.sizes))
    spare = (sides == _TRAIN) & (in_train[groups.labels] > 1)
    for group in order[spare[order]]:
        classes, counts = np.unique(codes[groups.rows(group)], return_counts=True)
        if (in_train[classes] > counts).all():
            sides[group] = side
            return
    others = np.flatnonzero((sides != _TRAIN) & (sides != side))
    if len(others) > 1:
        sides[others[np.argmin(groups.sizes[others])]] = side
