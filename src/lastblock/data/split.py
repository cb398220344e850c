"""Split rows into train, validation and test so that the score is true.

Equal texts (after ``normalise``) stay on one side, else a model is tested on what it has learnt by
heart. A split is kept as the numbers of its rows. Knows texts, labels, groups and times as values
only. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lastblock.data.examples import Examples, Label, LabelSet, Rows, Split
from lastblock.data.inspection import normalise
from lastblock.data.label_sets import membership, stratify
from lastblock.errors import ConfigError, DataError

_TRAIN, _VALIDATION, _TEST = 0, 1, 2
PARTS = ("train", "validation", "test")

Fractions = tuple[float, float, float]  # of train, validation, test


def stratified_split(
    texts: Sequence[str],
    labels: Sequence[Label] | Sequence[LabelSet],
    *,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: int,
    groups: Sequence[Sequence[Hashable]] = (),
) -> Split:
    """Split by label, with equal normalised texts on one side; row numbers ascending.

    Where labels are tuples of several, each of those has its share on every side, as far as can be
    (see ``label_sets.stratify``).

    Each of ``groups`` has a value for each row; rows with equal values stay on one side too, and so
    do rows that are tied through others. A missing value (None) ties nothing.

    Sizes are as near to ``fractions`` (train, validation, test) as classes and repeated texts
    allow; a repeated text counts for the label that most of its rows have. Every class has an
    example in train; in small data, validation and test get one where train can spare it.

    Raises:
        ConfigError: fractions that are negative, do not sum to 1, or leave nothing for train.
        DataError: no rows, or not one label for each text.
    """
    return _split_of(_assign(texts, labels, fractions, seed, groups))


def holdout(
    texts: Sequence[str],
    labels: Sequence[Label] | Sequence[LabelSet],
    *,
    fraction: float,
    seed: int,
    groups: Sequence[Sequence[Hashable]] = (),
) -> tuple[Rows, Rows]:
    """Rows to keep and rows to hold out, by the rules of ``stratified_split``."""
    sides = _assign(texts, labels, (1 - fraction, fraction, 0.0), seed, groups)
    return np.flatnonzero(sides == _TRAIN), np.flatnonzero(sides == _VALIDATION)


def shuffled_split(n: int, *, seed: int) -> Split:
    """The book's split of ``n`` rows: shuffle, then int(0.7 n), int(0.1 n) and the rest.

    Row numbers in the order drawn, by numpy's older generator, as pandas' ``sample`` has it in
    the book. It regards neither labels nor repeated texts.
    """
    rows = np.random.RandomState(seed).permutation(n).astype(np.int64)
    train, validation = int(0.7 * n), int(0.1 * n)
    return Split(rows[:train], rows[train : train + validation], rows[train + validation :])


def hash_split(
    texts: Sequence[str],
    *,
    fractions: Fractions = (0.7, 0.1, 0.2),
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> Split:
    """Split by what each text is, so that it stays on its side when rows are added or reordered.

    The side follows from a hash of the normalised text, or of the row's value in ``groups``.
    Labels are not regarded; sizes are near ``fractions`` only as far as chance brings them there.
    """
    _check(texts, texts, fractions)
    keys = [f"group {value!r}" for value in groups] if groups else [*map(normalise, texts)]
    places = np.array([_place(key, seed) for key in keys])
    bounds = np.cumsum(fractions)[:2]
    return _split_of(np.searchsorted(bounds, places, side="right").astype(np.int8))


def time_split(times: Sequence[Any], *, fractions: Fractions = (0.7, 0.1, 0.2)) -> Split:
    """The oldest rows to train on, then those to validate on, the newest to test on.

    Times are numbers, dates, or strings of either (dates as ISO 8601). Rows of the same time stay
    together, on the older side. Texts that are repeated later are not looked for.

    Raises:
        DataError: a time is missing or is none; all rows have the same time.
    """
    _check(times, times, fractions)
    moments = _moments(times)
    order = sorted(range(len(moments)), key=lambda row: moments[row])
    sides = np.zeros(len(moments), np.int8)
    for side in (_VALIDATION, _TEST):
        at = round(len(order) * sum(fractions[:side]))
        while 0 < at < len(order) and moments[order[at]] == moments[order[at - 1]]:
            at += 1
        sides[order[at:]] = side
    if not (sides != _TRAIN).any():
        raise DataError("the newest rows all have the same time; give another --time-column")
    return _split_of(sides)


def folds(
    texts: Sequence[str],
    labels: Sequence[Label] | Sequence[LabelSet],
    *,
    k: int,
    seed: int,
    groups: Sequence[Sequence[Hashable]] = (),
) -> list[tuple[Rows, Rows]]:
    """``k`` pairs of rows to train on and rows to test on; each row is tested on once.

    Stratified, with equal normalised texts (and ``groups``) in one fold.

    Raises:
        ConfigError: k is less than 2 or more than there are different texts.
    """
    _check(texts, labels, (1.0, 0.0, 0.0))
    tied = _group(_tied(texts, groups), _codes(labels))
    if not 2 <= k <= len(tied.sizes):
        raise ConfigError(f"{k} folds of {len(tied.sizes)} different texts; give from 2 to that")
    rng = np.random.default_rng(seed)
    if isinstance(labels[0], tuple):
        has = _has(tied, labels)  # type: ignore[arg-type]
        return fold_rows(stratify(has, tied.sizes, [1 / k] * k, rng)[tied.of_row], k)
    fold = np.zeros(len(tied.sizes), np.int64)
    total = np.zeros(k, np.int64)
    for members in _by_class(tied, rng):
        of_class = np.zeros(k, np.int64)
        # The largest first; each to the fold with the fewest rows of the class, then of all.
        for group in members[np.argsort(-tied.sizes[members], kind="stable")]:
            fold[group] = np.lexsort((total, of_class))[0]
            of_class[fold[group]] += tied.sizes[group]
            total[fold[group]] += tied.sizes[group]
    return fold_rows(fold[tied.of_row], k)


def fold_rows(of_row: NDArray[np.integer], k: int) -> list[tuple[Rows, Rows]]:
    """Rows to train on and rows to test on of each of ``k`` folds, by the fold of each row (n,)."""
    return [(np.flatnonzero(of_row != i), np.flatnonzero(of_row == i)) for i in range(k)]


def split_record(parts: Mapping[str, Examples], source: str) -> dict[str, Any]:
    """A split as JSON: the rows (from 0) of ``source`` in each part, or the part's own file."""
    rows = {
        name: part.row_ids().tolist() if part.source == source else {"file": part.source}
        for name, part in parts.items()
    }
    drawn = [part for part in parts.values() if part.source == source]
    return {"source": source, "sha256": _fingerprint(drawn), "rows": rows}


def read_split(path: str | Path, examples: Examples) -> Split:
    """The split that a ``split_record`` saved as JSON holds, as positions in ``examples``.

    Raises:
        DataError: no such file, none of ours, or of other examples.
    """
    try:
        record = json.loads(Path(path).read_text("utf-8"))
        ids = [np.asarray(record["rows"][name], np.int64) for name in PARTS]
        wanted = record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--split {path}: no split with rows of train, validation and test can be read there "
            f"({error}); give stratified, hash, or the split.json of a model"
        ) from None
    position = {row: i for i, row in enumerate(examples.row_ids().tolist())}
    try:
        split = Split(*(np.array([position[i] for i in part.tolist()], np.int64) for part in ids))
    except KeyError as error:
        raise DataError(f"--split {path}: row {error} is not in {examples.source}") from None
    parts = [examples.take(part) for part in (split.train, split.validation, split.test)]
    if _fingerprint(parts) != wanted:
        raise DataError(
            f"--split {path} was made of other texts than those of {examples.source}; "
            "give the same file, or split anew"
        )
    return split


def _fingerprint(parts: Iterable[Examples]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for text in part.texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _split_of(sides: NDArray[np.int8]) -> Split:
    return Split(*(np.flatnonzero(sides == side) for side in range(3)))


def _place(key: str, seed: int) -> float:
    """A number in [0, 1) that follows from the key and the seed alone."""
    data = f"{seed}\0{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def _moments(times: Sequence[Any]) -> list[Any]:
    """Values that can be put in order: all numbers, or all points in time."""
    for row, value in enumerate(times):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(f"row {row + 1} has no time; fill it in or delete the row")
    try:
        return [float(value) for value in times]
    except (TypeError, ValueError):
        pass
    moments = []
    for row, value in enumerate(times):
        try:
            moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
            if isinstance(moment, date) and not isinstance(moment, datetime):
                moment = datetime.combine(moment, time())
            moments.append(moment.timestamp())
        except (ValueError, AttributeError):
            raise DataError(
                f"row {row + 1}: {value!r} is no time; write dates as 2024-01-31 or "
                "2024-01-31T23:59, or give numbers"
            ) from None
    return moments


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
    labels: Sequence[Label] | Sequence[LabelSet],
    fractions: Fractions,
    seed: int,
    ties: Sequence[Sequence[Hashable]],
) -> NDArray[np.int8]:
    """The side of each row: 0 train, 1 validation, 2 test; shape (rows,)."""
    _check(texts, labels, fractions)
    codes = _codes(labels)
    groups = _group(_tied(texts, ties), codes)
    rng = np.random.default_rng(seed)
    if isinstance(labels[0], tuple):
        return _assign_sets(groups, labels, fractions, rng)[groups.of_row]  # type: ignore[arg-type]
    sides = np.zeros(len(groups.sizes), np.int8)
    carried = dict.fromkeys((_TEST, _VALIDATION), 0.0)
    for members in _by_class(groups, rng):
        _draw(members, groups.sizes, fractions, carried, sides)
    _bring_every_class_to_train(groups, codes, sides)
    for side in carried:
        if fractions[side] > 0 and not (sides == side).any():
            _spare_a_group(groups, codes, sides, side, rng)
    return sides[groups.of_row]


def _assign_sets(
    groups: _Groups, sets: Sequence[LabelSet], fractions: Sequence[float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """The side of each group where rows have several labels; the first side has every label."""
    has = _has(groups, sets)
    sides = stratify(has, groups.sizes, fractions, rng)
    for label in np.flatnonzero(~has[sides == _TRAIN].any(axis=0)):
        sides[has[:, label].argmax()] = _TRAIN
    return sides


def _has(groups: _Groups, sets: Sequence[LabelSet]) -> NDArray[np.bool_]:
    """Whether a row of each group has each label, (groups, labels)."""
    of_row = membership(sets)
    has = np.zeros((len(groups.sizes), of_row.shape[1]), np.bool_)
    np.logical_or.at(has, groups.of_row, of_row)
    return has


def _check(texts: Sequence[Any], labels: Sequence[Any], fractions: Fractions) -> None:
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


def _tied(texts: Sequence[str], ties: Sequence[Sequence[Hashable]]) -> Rows:
    """The group of each row: equal normalised texts and equal values, and what those connect."""
    of_text = _codes(map(normalise, texts))
    if not ties:
        return of_text
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(texts)
    rows, nodes, first = [np.arange(n)], [of_text + n], n + int(of_text.max()) + 1
    for values in ties:
        known = np.array([row for row, value in enumerate(values) if value not in (None, "")], int)
        codes = _codes(values[row] for row in known)
        rows.append(known)
        nodes.append(codes + first)
        first += len(known)
    edges = (np.concatenate(rows), np.concatenate(nodes))
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(first, first))
    return _codes(connected_components(graph, directed=False)[1][:n].tolist())


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
    fractions: Fractions,
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
