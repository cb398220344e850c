"""EVALUATE: scores with their uncertainty, from arrays. Knows no model and no text; numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class History:
    """What was seen while training: points of the loss curve, and of the accuracy curve."""

    losses: list[dict[str, float | None]] = field(default_factory=list)
    accuracies: list[dict[str, float | None]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one part; ``confusion`` has a row for each true class, a column for each said."""

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    macro_f1: float
    mcc: float
    loss: float
    confusion: list[list[int]]
    per_class: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def wilson_interval(right: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], names: Sequence[str]
) -> Evaluation:
    """Scores of probabilities (n, k) against class numbers (n,)."""
    n, k = probabilities.shape
    said = probabilities.argmax(axis=1)
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (labels, said), 1)
    right = int(np.trace(confusion))
    true_n, said_n, hits = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    precision, recall = _ratio(hits, said_n), _ratio(hits, true_n)
    f1 = _ratio(2 * hits, true_n + said_n)
    chosen = probabilities[np.arange(n), labels]
    return Evaluation(
        n=n,
        accuracy=right / n,
        accuracy_ci95=wilson_interval(right, n),
        macro_f1=float(f1.mean()),
        mcc=_mcc(confusion),
        loss=float(-np.log(np.clip(chosen, np.finfo(float).eps, None)).mean()),
        confusion=confusion.tolist(),
        per_class={
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(true_n[i]),
            }
            for i, name in enumerate(names)
        },
    )


def _ratio(top: npt.NDArray[Any], bottom: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0)


def _mcc(confusion: npt.NDArray[np.int64]) -> float:
    """Matthews' coefficient for many classes (Gorodkin 2004); 0 where it is not defined."""
    true_n, said_n = confusion.sum(1).astype(float), confusion.sum(0).astype(float)
    n = true_n.sum()
    covariance = np.trace(confusion) * n - true_n @ said_n
    spread = math.sqrt((n * n - said_n @ said_n) * (n * n - true_n @ true_n))
    return float(covariance / spread) if spread else 0.0
