"""Decision: from logits to probabilities, and from probabilities to the labels that are given.

It is saved with the model: the temperature of its probabilities, the thresholds of its labels, and
the probability below which it would rather say nothing. Knows arrays; no texts, no label names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lastblock.config import LabelForm, ThresholdRule
from lastblock.evaluation import OperatingPoints, operating_points

# A label that fewer validation texts have says too little about its own threshold.
FEWEST_POSITIVES = 10
UNSURE = "unsure"

Floats = npt.NDArray[np.float64]
Events = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """How a model makes up its mind.

    ``temperature`` divides the logits (see ``calibration``). ``thresholds`` holds, where a text
    may have several labels, one for each (None: 0.5); of two classes, one, the probability from
    which on the second is given (None: the more probable one is). With ``abstain_below`` a text
    whose label is less probable than that is "unsure"; of several labels the most probable counts.
    """

    temperature: float = 1.0
    labels: LabelForm = "one"
    thresholds: tuple[float, ...] | None = None
    abstain_below: float | None = None

    @property
    def multilabel(self) -> bool:
        return self.labels != "one"

    def probabilities(self, logits: Floats) -> Floats:
        """Logits (n, k) -> probabilities (n, k), float64, by softmax, or each by itself."""
        scaled = logits / self.temperature
        if self.multilabel:
            return np.exp(-np.logaddexp(0, -scaled))
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def chosen(self, probabilities: Floats) -> Events:
        """Which labels each text is given, from probabilities (n, k): (n, k), bool."""
        if self.multilabel:
            return probabilities >= (0.5 if self.thresholds is None else np.array(self.thresholds))
        if self.thresholds is not None:
            second = probabilities[:, 1] >= self.thresholds[0]
            return np.column_stack([~second, second])
        best = probabilities.argmax(axis=1)
        return best[:, None] == np.arange(probabilities.shape[1])

    def unsure(self, probabilities: Floats) -> Events:
        """Which texts it would rather say nothing about, (n,), bool."""
        if self.abstain_below is None:
            return np.zeros(len(probabilities), dtype=np.bool_)
        if self.multilabel:
            sureness = probabilities.max(axis=1, initial=0.0)
        else:
            sureness = probabilities[self.chosen(probabilities)]
        return sureness < self.abstain_below

    def at(self, threshold: float, n_classes: int) -> Decision:
        """The same with one threshold for whatever is asked: every label, or the second class."""
        questions = n_classes if self.multilabel else 1
        return dataclasses.replace(self, thresholds=(threshold,) * questions)

    def describe(self, names: Sequence[str]) -> str | None:
        """In plain words what differs from giving the most probable class; None: nothing."""
        said = []
        if self.multilabel:
            at = (0.5,) if self.thresholds is None else sorted(set(self.thresholds))
            span = f"{at[0]:.3g}" if len(at) == 1 else f"{at[0]:.3g} to {at[-1]:.3g} (by label)"
            said.append(f"a label is given from a probability of {span} on")
        elif self.thresholds is not None:
            at_least = f"from a probability of {self.thresholds[0]:.3g} on"
            said.append(f"{names[1]!r} is given {at_least}, else {names[0]!r}")
        if self.abstain_below is not None:
            said.append(
                f'"{UNSURE}" stands where the label is less probable than {self.abstain_below:g}'
            )
        return "; ".join(said) or None

    def to_dict(self) -> dict[str, Any]:
        """The same, made of what JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Decision:
        """What ``to_dict`` gave; what an older model lacks is as if never chosen."""
        thresholds = saved.get("thresholds")
        return cls(**{**saved, "thresholds": None if thresholds is None else tuple(thresholds)})


def with_thresholds(
    decision: Decision, rule: ThresholdRule, truth: npt.NDArray[Any], probabilities: Floats
) -> Decision:
    """The decision with the thresholds that serve ``rule`` best on texts it has not learnt from.

    Args:
        decision: as it is without; of one label a text it must be for two classes.
        rule: what to choose for.
        truth: class numbers (n,), or which labels each text has (n, k); n > 0.
        probabilities: (n, k).
    """
    if rule.kind == "at":
        return decision.at(rule.values[0], probabilities.shape[1])
    happened = truth if truth.ndim == 2 else (truth == 1)[:, None]
    asked = probabilities if truth.ndim == 2 else probabilities[:, 1:]
    return dataclasses.replace(decision, thresholds=choose_thresholds(rule, happened, asked))


def choose_thresholds(
    rule: ThresholdRule, truth: Events, probabilities: Floats
) -> tuple[float, ...]:
    """A threshold for each question (column) of truth (n, k) and probabilities (n, k), n > 0.

    Chosen for each by itself; one that fewer than ``FEWEST_POSITIVES`` texts answer with yes takes
    that of all questions together. A precision that is nowhere reached gives way to the highest
    there is.
    """
    together = _choose(rule, operating_points(truth.ravel(), probabilities.ravel()))
    columns = zip(truth.T, probabilities.T, strict=True)
    return tuple(
        _choose(rule, operating_points(happened, probability))
        if truth.shape[1] == 1 or happened.sum() >= FEWEST_POSITIVES
        else together
        for happened, probability in columns
    )


def _choose(rule: ThresholdRule, points: OperatingPoints) -> float:
    """The threshold that serves the rule best, half-way to the next lower probability."""
    if rule.kind == "f1":
        best = points.f1.argmax()
    elif rule.kind == "precision":
        # The lowest threshold, and so the most texts, of those that are precise enough.
        wanted = min(rule.values[0], float(points.precision.max()))
        best = np.flatnonzero(points.precision >= wanted)[-1]
    elif rule.kind == "recall":
        best = np.flatnonzero(points.recall >= rule.values[0])[0]
    else:
        false_alarm, miss = rule.values
        costs = false_alarm * (points.flagged - points.right)
        costs = costs + miss * (points.positives - points.right)
        if miss * points.positives < costs.min():  # never is cheapest
            highest = float(points.threshold[0])
            return max((1 + highest) / 2, math.nextafter(highest, 2))
        best = costs.argmin()
    next_lower = points.threshold[best + 1] if best + 1 < len(points.threshold) else 0.0
    return float((points.threshold[best] + next_lower) / 2)
