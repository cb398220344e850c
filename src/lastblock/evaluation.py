"""Judge probabilities against labels: scores, intervals, confusion. And the shape of a history.

Works on arrays with numpy alone. Knows no texts, no model and no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from lastblock.errors import DataError

Confusion = npt.NDArray[np.int64]
Point = dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """How good ``n`` predictions are.

    ``accuracy_ci95`` is Wilson's interval; ``loss`` the mean negative log likelihood in nats;
    ``confusion[i][j]`` the count of class i taken for class j; ``per_class`` holds precision,
    recall, f1 and support by class name, in the order of the confusion's rows. A ratio that has
    nothing below its line is 0.
    """

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    macro_f1: float
    mcc: float
    loss: float
    confusion: list[list[int]]
    per_class: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """The same, made of what JSON can hold."""
        return {**dataclasses.asdict(self), "accuracy_ci95": list(self.accuracy_ci95)}


@dataclass(frozen=True)
class History:
    """What was seen while training, a dict a point; None where there was no validation part.

    ``losses``: step, examples_seen, train_loss, validation_loss (nats).
    ``accuracies``: epoch, step, examples_seen, train_accuracy, validation_accuracy.
    """

    losses: list[Point] = field(default_factory=list)
    accuracies: list[Point] = field(default_factory=list)

    def to_dict(self) -> dict[str, list[Point]]:
        return dataclasses.asdict(self)


def evaluate(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, class_names: Sequence[str]
) -> Evaluation:
    """Score ``probabilities`` (n, k), whose columns are ``class_names``, against labels (n,).

    The prediction is the most probable class, the first of equals. Every class counts in the
    macro F1, as in scikit-learn with ``labels=range(k), zero_division=0``.

    Raises:
        DataError: no examples, or shapes or class numbers that do not belong together.
    """
    truth = np.asarray(labels)
    likelihood = np.asarray(probabilities, dtype=np.float64)
    _check(truth, likelihood, class_names)
    confusion = confusion_matrix(truth, likelihood.argmax(axis=1), len(class_names))
    precision, recall, f1 = precision_recall_f1(confusion)
    right = int(np.trace(confusion))
    columns = zip(class_names, precision, recall, f1, confusion.sum(axis=1), strict=True)
    return Evaluation(
        n=len(truth),
        accuracy=right / len(truth),
        accuracy_ci95=wilson_interval(right, len(truth)),
        macro_f1=float(f1.mean()),
        mcc=matthews_correlation(confusion),
        loss=negative_log_likelihood(truth, likelihood),
        confusion=confusion.tolist(),
        per_class={
            str(name): {
                "precision": float(p),
                "recall": float(r),
                "f1": float(f),
                "support": int(n),
            }
            for name, p, r, f, n in columns
        },
    )


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion.

    Wilson, "Probable inference, the law of succession, and statistical inference" (JASA, 1927).
    It keeps its coverage near 0 and 1, where the usual p ± 1.96 standard errors does not.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, spread = successes / n, z * z / n
    middle = (p + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (p * (1 - p) + spread / 4)) / (1 + spread)
    # p lies inside, and at 0 and 1 on the bound: rounding must not say otherwise.
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def confusion_matrix(
    labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], k: int
) -> Confusion:
    """Counts (k, k), int64: rows are the true class, columns the predicted one."""
    counts: Confusion = np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)
    return counts


def precision_recall_f1(
    confusion: Confusion,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision, recall and F1 of each class, (k,) each; 0 where there is nothing to divide by."""
    right, predicted, true = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return _ratio(right, predicted), _ratio(right, true), _ratio(2 * right, predicted + true)


def matthews_correlation(confusion: Confusion) -> float:
    """Matthews's correlation for k classes: 1 perfect, 0 no better than chance.

    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient"
    (Computational Biology and Chemistry, 2004). 0 where labels or predictions are all of one class.
    """
    counts = confusion.astype(np.float64)
    n, predicted, true = counts.sum(), counts.sum(axis=0), counts.sum(axis=1)
    spread = (n * n - predicted @ predicted) * (n * n - true @ true)
    if spread == 0:
        return 0.0
    return float((n * np.trace(counts) - predicted @ true) / math.sqrt(spread))


def negative_log_likelihood(
    labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.float64]
) -> float:
    """Mean of -log p(true class), in nats; p is kept off 0 by the machine's epsilon."""
    likelihood = np.take_along_axis(probabilities, labels[:, None], axis=1)
    # 0 - x rather than -x, so that certainty costs 0.0 and not -0.0
    return 0.0 - float(np.log(likelihood.clip(np.finfo(np.float64).eps, 1)).mean())


def _ratio(above: npt.NDArray[np.int64], below: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _check(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[np.float64], names: Sequence[str]
) -> None:
    if len(labels) == 0:
        raise DataError("there are no examples to evaluate; give at least one")
    if probabilities.shape != (len(labels), len(names)):
        raise DataError(
            f"probabilities have shape {probabilities.shape}, wanted {(len(labels), len(names))}: "
            "a row for each label and a column for each class name"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are of type {labels.dtype}; give class numbers as integers")
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataError(
            f"class numbers run from {labels.min()} to {labels.max()}, wanted 0 to {len(names) - 1}"
        )
