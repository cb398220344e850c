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

MOST_POINTS = 400  # of all curves of a report together, or nearly
RESAMPLES = 1000
RELIABILITY_BINS = 15  # as in Guo et al. 2017

Confusion = npt.NDArray[np.int64]
Events = npt.NDArray[np.bool_]
Point = dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """How good ``n`` predictions are.

    ``accuracy_ci95`` is Wilson's interval; ``loss`` the mean negative log likelihood in nats;
    ``ece`` the calibration error of the most probable class; ``brier`` as ``brier_score`` has it;
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
    ece: float
    brier: float
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


@dataclass(frozen=True)
class LabelsEvaluation:
    """How good predictions for ``n`` texts are that may have several labels each, or none.

    ``accuracy`` is the share of texts all of whose labels are right, with Wilson's interval; the
    other intervals are what F1 scores vary by when the texts are drawn again, with replacement,
    1,000 times (normal bootstrap intervals, bias taken off). ``micro_f1`` counts all labels
    together; ``macro_f1`` and ``average_precision`` are means over labels; ``hamming_loss`` is the
    share of wrong answers. ``loss`` is the mean binary cross-entropy in nats, ``ece`` and ``brier``
    are over all texts and labels too. ``labels_per_text``: as they are, and as given.
    """

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    micro_f1: float
    micro_f1_ci95: tuple[float, float]
    macro_f1: float
    macro_f1_ci95: tuple[float, float]
    average_precision: float
    hamming_loss: float
    loss: float
    ece: float
    brier: float
    labels_per_text: dict[str, float]
    per_class: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """The same, made of what JSON can hold."""
        found = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def evaluate(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    class_names: Sequence[str],
    predicted: npt.NDArray[np.integer] | None = None,
) -> Evaluation:
    """Score ``probabilities`` (n, k), whose columns are ``class_names``, against labels (n,).

    The prediction is the most probable class, the first of equals, unless it is given: class
    numbers (n,), by a threshold. Every class counts in the
    macro F1, as in scikit-learn with ``labels=range(k), zero_division=0``.

    Raises:
        DataError: no examples, or shapes or class numbers that do not belong together.
    """
    truth = np.asarray(labels)
    likelihood = np.asarray(probabilities, dtype=np.float64)
    _check(truth, likelihood, class_names)
    if predicted is None:
        predicted = likelihood.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, len(class_names))
    precision, recall, f1 = precision_recall_f1(confusion)
    right = int(np.trace(confusion))
    columns = zip(class_names, precision, recall, f1, confusion.sum(axis=1), strict=True)
    return Evaluation(
        n=len(truth),
        accuracy=right / len(truth),
        accuracy_ci95=wilson_interval(right, len(truth)),
        macro_f1=float(f1.mean()),
        mcc=matthews_correlation(confusion),
        **calibration_scores(truth, likelihood),
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


def evaluate_labels(
    truth: Events,
    probabilities: npt.NDArray[np.float64],
    class_names: Sequence[str],
    chosen: Events,
) -> LabelsEvaluation:
    """Score labels ``chosen`` by ``probabilities`` against the truth; all of shape (n, k).

    As in scikit-learn with ``zero_division=0``: a ratio that has nothing below its line is 0.

    Raises:
        DataError: no examples, or shapes that do not belong together.
    """
    if not len(truth):
        raise DataError("there are no examples to evaluate; give at least one")
    if not truth.shape == probabilities.shape == chosen.shape == (len(truth), len(class_names)):
        raise DataError(
            f"truth {truth.shape}, probabilities {probabilities.shape} and labels {chosen.shape} "
            f"must have a row for each text and a column for each of {len(class_names)} labels"
        )
    right = truth & chosen
    counts = [each.sum(axis=0) for each in (right, chosen, truth)]
    precision, recall = _ratio(counts[0], counts[1]), _ratio(counts[0], counts[2])
    f1 = _ratio(2 * counts[0], counts[1] + counts[2])
    average = [
        operating_points(t, p).average_precision
        for t, p in zip(truth.T, probabilities.T, strict=True)
    ]
    all_right = int((truth == chosen).all(axis=1).sum())
    micro, macro = _f1_intervals(right, chosen, truth)
    columns = zip(class_names, precision, recall, f1, average, counts[2], strict=True)
    return LabelsEvaluation(
        n=len(truth),
        accuracy=all_right / len(truth),
        accuracy_ci95=wilson_interval(all_right, len(truth)),
        micro_f1=float(_micro_macro(*counts)[0]),
        micro_f1_ci95=micro,
        macro_f1=float(f1.mean()),
        macro_f1_ci95=macro,
        average_precision=float(np.mean(average)),
        hamming_loss=float((truth != chosen).mean()),
        **calibration_scores(truth, probabilities),
        labels_per_text={
            "true": float(counts[2].sum() / len(truth)),
            "given": float(counts[1].sum() / len(truth)),
        },
        per_class={
            str(name): {
                "precision": float(p),
                "recall": float(r),
                "f1": float(f),
                "average_precision": float(a),
                "support": int(n),
            }
            for name, p, r, f, a, n in columns
        },
    )


def _f1_intervals(
    right: Events, chosen: Events, truth: Events
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bootstrap intervals of micro and macro F1, from which labels (n, k) are right, given, true.

    The estimate, less the bootstrap's estimate of its bias, plus and minus 1.96 of its standard
    errors (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", sections 10.2 and 12.3).
    Of few texts and many rare labels F1 is biased, and plain percentiles cover too little. Where a
    few labels have fewer than ten texts each, macro F1's interval is still too narrow: what such a
    handful would have been otherwise cannot be learnt from drawing it again.
    """
    n, k = truth.shape
    rng = np.random.default_rng(0)
    each = np.hstack([right, chosen, truth]).astype(np.float32)  # (n, 3 k)
    scores = []
    for _ in range(RESAMPLES // 50):
        drawn = rng.integers(0, n, size=(50, n)) + n * np.arange(50)[:, None]
        times = np.bincount(drawn.ravel(), minlength=50 * n).reshape(50, n)
        counts = (times.astype(np.float32) @ each).reshape(50, 3, k)
        scores.append(_micro_macro(*np.moveaxis(counts, 1, 0)))
    drawn_scores = np.concatenate(scores, axis=1)  # (2, RESAMPLES)
    estimate = _micro_macro(*(of.sum(axis=0) for of in (right, chosen, truth)))
    middle = 2 * estimate - drawn_scores.mean(axis=1)
    half = NormalDist().inv_cdf(0.975) * drawn_scores.std(axis=1, ddof=1)
    # The estimate lies inside, and F1 is never beyond 0 and 1.
    low = np.maximum(0, np.minimum(estimate, middle - half))
    high = np.minimum(1, np.maximum(estimate, middle + half))
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def _micro_macro(
    right: npt.NDArray[Any], chosen: npt.NDArray[Any], truth: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Micro and macro F1, (2, ...), from counts (..., k)."""
    below = chosen + truth
    f1 = np.divide(2 * right, below, out=np.zeros(right.shape), where=below > 0)
    total = below.sum(axis=-1)
    micro = np.divide(2 * right.sum(axis=-1), total, out=np.zeros(total.shape), where=total > 0)
    return np.stack([micro, f1.mean(axis=-1)])


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


# ------------------------------------------------------- probabilities: can they be believed?


def most_probable(
    labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.float64]
) -> tuple[Events, npt.NDArray[np.float64]]:
    """Whether the most probable class is the true one (n,), and its probability (n,)."""
    return probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)


def events(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[np.float64]
) -> tuple[Events, npt.NDArray[np.float64]]:
    """What is said to be probable, as (happened, probability), (m,) each.

    Of class numbers (n,): that the most probable class is the true one, n times. Of several labels
    (n, k): that a text has a label, n k times.
    """
    if labels.ndim == 2:
        return labels.ravel(), probabilities.ravel()
    return most_probable(labels, probabilities)


def reliability(
    happened: Events, probability: npt.NDArray[np.float64], bins: int = RELIABILITY_BINS
) -> list[dict[str, Any]]:
    """What was said against what happened, by how probable it was said to be.

    Args:
        happened: whether each event came true (n,), bool.
        probability: how probable it was said to be (n,).
        bins: of equal width, (low, high]; empty ones are left out.

    Returns:
        Dicts of low, high, n, probability (the mean of what was said), share (of what came true)
        and share_ci95 (Wilson's interval).
    """
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], probability)
    counts = np.bincount(index, minlength=bins)
    said = np.bincount(index, weights=probability, minlength=bins)
    true = np.bincount(index, weights=happened, minlength=bins).astype(np.int64)
    return [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "n": int(counts[i]),
            "probability": float(said[i] / counts[i]),
            "share": float(true[i] / counts[i]),
            "share_ci95": list(wilson_interval(int(true[i]), int(counts[i]))),
        }
        for i in np.flatnonzero(counts)
    ]


def expected_calibration_error(happened: Events, probability: npt.NDArray[np.float64]) -> float:
    """Mean distance between what was said and what happened, over ``reliability``'s bins.

    Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning"
    (AAAI 2015); with the bins of Guo et al. (ICML 2017).
    """
    bins = reliability(happened, probability)
    off = sum(bin["n"] * abs(bin["probability"] - bin["share"]) for bin in bins)
    return float(off / len(probability))


def brier_score(truth: Events, probabilities: npt.NDArray[np.float64]) -> float:
    """Mean squared distance of probabilities (n, k) from the truth (n, k), 0 the best.

    Summed over the classes, as Brier had it (Monthly Weather Review, 1950); of two classes, whose
    distances are equal, one is counted. That is scikit-learn's way too, and at most 1 or 2.
    """
    squared = np.square(probabilities - truth).sum(axis=1).mean()
    return float(squared / 2 if probabilities.shape[1] == 2 else squared)


def calibration_scores(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[np.float64]
) -> dict[str, float]:
    """How well probabilities (n, k) are calibrated: ece, brier and loss.

    Labels are class numbers (n,); or which labels each text has (n, k), and then brier and loss
    are means over texts and labels.
    """
    ece = expected_calibration_error(*events(labels, probabilities))
    if labels.ndim == 2:
        likelihood = np.where(labels, probabilities, 1 - probabilities)
        brier = float(np.square(1 - likelihood).mean())
        loss = 0.0 - float(np.log(likelihood.clip(np.finfo(np.float64).eps, 1)).mean())
        return {"ece": ece, "brier": brier, "loss": loss}
    one_hot = labels[:, None] == np.arange(probabilities.shape[1])
    return {
        "ece": ece,
        "brier": brier_score(one_hot, probabilities),
        "loss": negative_log_likelihood(labels, probabilities),
    }


@dataclass(frozen=True)
class OperatingPoints:
    """What follows from saying yes at and above each threshold; arrays (m,), thresholds falling.

    There is a point for each different probability. ``flagged`` counts the yeses, ``right`` those
    that are true, ``positives`` all that are.
    """

    threshold: npt.NDArray[np.float64]
    flagged: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    positives: int

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        return self.right / self.flagged

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """1 where nothing is true, so that nothing is missed, as in scikit-learn."""
        return self.right / self.positives if self.positives else np.ones(len(self.right))

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        return 2 * self.right / (self.flagged + self.positives)

    @property
    def average_precision(self) -> float:
        """Precision averaged over the steps in recall; 0 where nothing is true."""
        if not self.positives:
            return 0.0
        return float(self.precision @ np.diff(self.right, prepend=0) / self.positives)

    def to_list(self, most: int) -> list[dict[str, float]]:
        """At most ``most`` points, drawn evenly by texts and by recall: a report's curves as JSON.

        Dicts of threshold, precision, recall, f1 and flagged, a share of all.
        """
        n = int(self.flagged[-1])
        evenly = np.linspace(0, len(self.threshold) - 1, most - most // 2).round()
        found = np.searchsorted(self.right, np.linspace(0, self.positives, most // 2))
        some = np.unique([*evenly.astype(np.int64), *found])
        few = some if len(self.threshold) > most else range(len(self.threshold))
        columns = {
            "threshold": self.threshold,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "flagged": self.flagged / n,
        }
        return [{name: float(column[i]) for name, column in columns.items()} for i in few]


def operating_points(happened: Events, probability: npt.NDArray[np.float64]) -> OperatingPoints:
    """Every threshold worth having, for one yes-or-no question asked of n texts, n > 0."""
    order = np.argsort(-probability, kind="stable")
    sorted_probability = probability[order]
    last_of_equals = np.flatnonzero(np.diff(sorted_probability, append=-1.0))
    right = np.cumsum(happened[order], dtype=np.int64)
    return OperatingPoints(
        threshold=sorted_probability[last_of_equals],
        flagged=last_of_equals + 1,
        right=right[last_of_equals],
        positives=int(right[-1]),
    )


def curves(
    truth: Events, probabilities: npt.NDArray[np.float64], class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each class against the rest, from truth (n, k) and probabilities (n, k), by name.

    Dicts of average_precision and points (see ``OperatingPoints.to_list``), fewer of them where
    there are many classes.
    """
    most = max(40, MOST_POINTS // len(class_names))
    found = {}
    for name, happened, probability in zip(class_names, truth.T, probabilities.T, strict=True):
        points = operating_points(happened, probability)
        found[name] = {
            "average_precision": points.average_precision,
            "points": points.to_list(most),
        }
    return found


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
