"""Temperature scaling: one number that makes probabilities as sure as they are right.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks" (ICML 2017): logits are
divided by a temperature, fitted on validation data. The order of a text's classes stays as it is,
and so does every prediction. Knows logits and class numbers; no model, no files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# With fewer validation texts than this a temperature says more about them than about the model.
CALIBRATE_FROM = 50
# Of the logarithm of temperatures: twice as sure or half is rare, and some fifty texts may say so.
SPREAD = 0.3
# Far beyond what is ever right; the search needs ends.
LOWEST, HIGHEST = 0.05, 20.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The temperature fitted on ``texts`` validation texts (None: too few), and if it is used."""

    temperature: float | None
    texts: int
    applied: bool


def get_ready() -> None:
    """Import what ``fit_temperature`` needs, which takes a fifth of a second."""
    import scipy.optimize  # noqa: F401


def fit_temperature(
    logits: Floats, labels: npt.NDArray[np.integer] | npt.NDArray[np.bool_]
) -> float:
    """The temperature of probabilities made from logits (n, k).

    Labels (n,) are class numbers, and probabilities a softmax's; or labels (n, k) say which of
    several each text has, and probabilities are each label's sigmoid's, with one temperature.

    Were none of the n texts wrong, the likelihood alone would ask for certainty. So a temperature
    far from 1 is held to be improbable: found is the most probable one, given a normal
    distribution of its logarithm, of standard deviation ``SPREAD``.
    """
    from scipy.optimize import minimize_scalar

    rows, sign = np.arange(len(labels)), np.where(labels, 1.0, -1.0)

    def log_likelihood(scaled: Floats) -> float:
        if labels.ndim == 2:
            return -float(np.logaddexp(0, -sign * scaled).mean(axis=1).sum())
        return float((scaled[rows, labels] - np.logaddexp.reduce(scaled, axis=1)).sum())

    def loss(log_temperature: float) -> float:
        prior = (log_temperature / SPREAD) ** 2 / 2
        return prior - log_likelihood(logits / math.exp(log_temperature))

    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return math.exp(found.x)
