"""Labels as people give them, as numbers to learn, and what each counts for.

A text has one label; or several, or none: then its labels are a list (or tuple, or set), or a row
of a matrix of zeros and ones with a column a label. Knows no texts and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lastblock.config import ClassWeight, LabelForm
from lastblock.data.examples import Label, LabelSet
from lastblock.errors import DataError

# Class numbers (n,), or whether each text has each label (n, n_classes).
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float64]

_KNOWN_SHOWN = 20


@dataclass(frozen=True)
class Targets:
    """The labels of n texts, plain Python values, and the different ones, sorted."""

    form: LabelForm
    labels: Sequence[Any]  # of labels, or of tuples of labels
    classes: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def for_form(self, form: LabelForm) -> Targets:
        """The same for a classifier whose labels have another form: one label is a set of one.

        Raises:
            DataError: there are several labels a text, and the classifier gives one.
        """
        if self.form != "one" and form == "one":
            raise DataError("this classifier gives one label a text, not several; give it one each")
        if self.form == "one" and form != "one":
            return Targets(form, [(label,) for label in self.labels], self.classes)
        return self

    def numbers(self, classes: Sequence[Label]) -> Numbers:
        """Indices into ``classes`` (n,), int64; or of several labels a matrix (n, k), bool.

        Raises:
            DataError: a label is none of ``classes``.
        """
        number = {label: i for i, label in enumerate(classes)}
        for label in self.classes.tolist():
            if label not in number:
                raise DataError(
                    f"label {label!r} was not there in training; known: "
                    + ", ".join(map(repr, list(number)[:_KNOWN_SHOWN]))
                )
        if self.form == "one":
            return np.array([number[label] for label in self.labels], dtype=np.int64)
        has = np.zeros((len(self), len(number)), dtype=np.bool_)
        for row, of in enumerate(self.labels):
            has[row, [number[label] for label in of]] = True
        return has


def read_targets(y: Any) -> Targets:
    """Labels as given: one a text, several a text, or an indicator matrix of zeros and ones.

    Raises:
        DataError: they are none of these, or of different types.
    """
    if y is None:
        raise DataError("TextClassifier requires y to be passed, but the target y is None")
    if hasattr(y, "toarray"):  # a sparse matrix
        y = y.toarray()
    if hasattr(y, "__array__"):
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] > 1:
            return _columns(y)
        if y.ndim != 1 or not _holds_sets(y):
            from sklearn.utils.validation import column_or_1d  # takes a second to import

            y = column_or_1d(y, warn=True)  # takes (n, 1), with a warning
    given = list(y)
    if _holds_sets(given):
        return _columns(np.asarray(given)) if _is_matrix(given) else _sets(given)
    labels = [_plain(label, f"label {i}") for i, label in enumerate(given)]
    return Targets("one", labels, _different(labels))


def class_weights(rule: ClassWeight, numbers: Numbers, classes: Sequence[Label]) -> Weights:
    """What a text of each class counts, (k,); of several labels what its no and yes count, (2, k).

    "balanced" gives each class of the n texts, or of several labels each label's no and yes, the
    same sum of weights, n in all: scikit-learn's ``compute_class_weight``. Else the weight of each
    class by name (1 for one not named); of several labels it is that of the yes.

    Raises:
        DataError: a weight is for no class.
    """
    n, k = len(numbers), len(classes)
    if not isinstance(rule, Mapping):
        if numbers.ndim == 1:
            return n / (k * np.maximum(np.bincount(numbers, minlength=k), 1))
        yes = numbers.sum(axis=0)
        return n / (2 * np.maximum([n - yes, yes], 1))
    given = {str(name): weight for name, weight in rule.items()}
    names = [str(label) for label in classes]
    for name in given:
        if name not in names:
            known = ", ".join(names[:_KNOWN_SHOWN])
            raise DataError(f"--class-weight names {name!r}, which is no class; known: {known}")
    of_class = np.array([given.get(name, 1.0) for name in names])
    return of_class if numbers.ndim == 1 else np.stack([np.ones(k), of_class])


def weigh(numbers: Numbers, of_class: Weights) -> Weights:
    """What each of n texts counts (n,), or of several labels each answer (n, k).

    ``of_class`` is as ``class_weights`` gives it.
    """
    if numbers.ndim == 1:
        return of_class[numbers]
    return np.where(numbers, of_class[1], of_class[0])


def _holds_sets(labels: Any) -> bool:
    return any(
        isinstance(label, tuple | list | set | frozenset | np.ndarray) or hasattr(label, "to_list")
        for label in labels
    )


def _is_matrix(rows: Sequence[Any]) -> bool:
    """Whether lists are the rows of a matrix of zeros and ones: no labels of a text are equal."""
    if not all(isinstance(row, list | tuple | np.ndarray) for row in rows):
        return False
    same_length = len({len(row) for row in rows}) == 1
    repeats = same_length and any(len(set(row)) < len(row) for row in rows)
    return repeats and all(label in (0, 1) for row in rows for label in row)


def _columns(matrix: npt.NDArray[Any]) -> Targets:
    if not np.isin(matrix, (0, 1)).all():
        raise DataError(
            f"labels have shape {matrix.shape} and are not all 0 or 1; give one label a text, a "
            "list of labels a text, or a matrix of zeros and ones"
        )
    labels = [tuple(np.flatnonzero(row).tolist()) for row in matrix]
    return Targets("columns", labels, np.arange(matrix.shape[1]))


def _sets(given: Sequence[Any]) -> Targets:
    sets: list[LabelSet] = []
    for i, of in enumerate(given):
        if isinstance(of, str | int) or not isinstance(of, Iterable):
            raise DataError(
                f"label {i} is {of!r}, others are lists of labels; give a list for each text"
            )
        labels = [_plain(label, f"a label of text {i}") for label in of]
        if len(set(labels)) < len(labels):
            raise DataError(f"labels of text {i} name one twice; leave out one of them")
        sets.append(tuple(sorted(labels, key=str)))  # a set has no order of its own
    return Targets("several", sets, _different([label for of in sets for label in of]))


def _plain(label: Any, name: str) -> Label:
    """A plain Python value (numpy's own scalars become the values they hold)."""
    label = label.item() if isinstance(label, np.generic) else label
    whole = isinstance(label, float) and label.is_integer()  # as scikit-learn has it
    if not (isinstance(label, str | int) or whole):
        raise DataError(
            f"{name} is {label!r} of type {type(label).__name__}; labels must be strings or whole "
            "numbers, nothing continuous"
        )
    return label


def _different(labels: Sequence[Label]) -> npt.NDArray[Any]:
    if len({type(label) for label in labels}) > 1:
        raise DataError("labels are of different types; give all as strings or all as integers")
    return np.unique(np.asarray(labels))
