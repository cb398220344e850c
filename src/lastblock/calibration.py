"""Temperature scaling: one number that makes probabilities as sure as they are right.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (ICML 2017): logits are
divided by a temperature, fitted on validation data. The order of a text's classes stays as it is,
and so does every prediction. Knows logits and class numbers; no model, no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# With fewer validation texts than this a temperature says more about them than about the model.
CALIBRATE_FROM = 50
# Far beyond what is ever right; the search needs ends.
LOWEST, HIGHEST = 0.05, 20.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The temperature fitted on ``texts`` validation texts (None: too few), and if it is used."""

    temperature: float | None
    texts: int
    applied: bool


def fit_temperature(logits: Floats, labels: npt.NDArray[np.integer]) -> float:
    """The temperature of a softmax over logits (n, k), of which labels (n,) are right.

    Were none of the n texts wrong, the likelihood alone would ask for certainty. So each counts
    as wrong by 1 / (n + 2), as in Platt, "Probabilistic outputs for support vector machines"
    (1999): whatever was seen, one more right and one more wrong is reckoned with.
    """
    rows = np.arange(len(labels))

    def log_right_and_wrong(scaled: Floats) -> tuple[Floats, Floats]:
        others = scaled.copy()
        others[rows, labels] = -np.inf
        right, wrong = scaled[rows, labels], np.logaddexp.reduce(others, axis=1)
        total = np.logaddexp(right, wrong)
        return right - total, wrong - total

    return _fit(logits, log_right_and_wrong)


def fit_temperature_of_labels(logits: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """The same for a sigmoid over each of the logits (n, k): one temperature for all labels."""
    sign = np.where(truth, 1.0, -1.0)

    def log_right_and_wrong(scaled: Floats) -> tuple[Floats, Floats]:
        return -np.logaddexp(0, -sign * scaled), -np.logaddexp(0, sign * scaled)

    return _fit(logits, log_right_and_wrong)


def _fit(logits: Floats, log_right_and_wrong: Callable[[Floats], tuple[Floats, Floats]]) -> float:
    from scipy.optimize import minimize_scalar

    doubt = 1 / (len(logits) + 2)

    def loss(log_temperature: float) -> float:
        right, wrong = log_right_and_wrong(logits / math.exp(log_temperature))
        return -float((1 - doubt) * right.mean() + doubt * wrong.mean())

    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return math.exp(found.x)
