"""Cross-validation: every text judged by a classifier that has not learnt from it.

Works with texts and labels in memory. Knows no files.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from lastblock.data.examples import Label, Rows
from lastblock.data.split import folds as draw_folds
from lastblock.estimator import TextClassifier
from lastblock.runtime import Progress, Silent


@dataclass(frozen=True)
class OutOfFold:
    """What was said of each text by the one classifier that had not learnt from it.

    ``probabilities`` (n, n_classes), float64, columns in the order of ``classes`` (n_classes,);
    0 for a class of which the classifier saw no text. ``fold`` (n,), int64, counts from 0.
    """

    probabilities: npt.NDArray[np.float64]
    fold: Rows
    classes: npt.NDArray[Any]


def out_of_fold(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[Label],
    *,
    folds: int = 5,
    seed: int = 123,
    groups: Sequence[Sequence[Hashable]] = (),
    progress: Progress | None = None,
) -> OutOfFold:
    """Fit a clone of ``classifier`` for each fold, on all other folds.

    Folds are those of ``data.split.folds``: stratified, with equal texts in one fold, and so rows
    with equal values in one of ``groups`` (each has a value for each row).

    What the recipe chooses is chosen once, by the first fold's fit from its own training texts,
    and kept for the others: so all are judged with the same settings.

    Raises:
        ConfigError: a setting does not fit, or there are fewer different texts than folds.
        DataError: texts or labels cannot be used.
    """
    progress = progress or Silent()
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    probabilities = np.zeros((len(texts), len(classes)))
    fold = np.zeros(len(texts), np.int64)
    for i, (train, test) in enumerate(draw_folds(texts, labels, k=folds, seed=seed, groups=groups)):
        progress.say(f"fold {i + 1} of {folds}: {len(train):,} texts to learn from")
        fitted = clone(classifier).fit(
            [texts[row] for row in train], classes[numbers[train]], progress=progress
        )
        columns = np.searchsorted(classes, fitted.classes_)
        probabilities[np.ix_(test, columns)] = fitted.predict_proba([texts[row] for row in test])
        fold[test] = i
        if i == 0:
            classifier = clone(classifier).set_params(**fitted.resolved_params())
    return OutOfFold(probabilities, fold, classes)
