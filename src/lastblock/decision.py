"""Decision: from logits to probabilities, and from probabilities to the labels that are given.

It is saved with the model: the temperature of its probabilities, the thresholds of its labels, and
the probability below which it would rather say nothing. Knows arrays; no texts, no label names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Events = npt.NDArray[np.bool_]

UNSURE = "unsure"


@dataclass(frozen=True)
class Decision:
    """How a model makes up its mind.

    ``temperature`` divides the logits (see ``calibration``). ``thresholds`` holds, where a text
    may have several labels, one for each (None: 0.5); of two classes, one, the probability from
    which on the second is given (None: the more probable one is). With ``abstain_below`` a text
    whose label is less probable than that is "unsure"; of several labels the most probable counts.
    """

    temperature: float = 1.0
    labels: Literal["one", "several"] = "one"
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

    def to_dict(self) -> dict[str, Any]:
        """The same, made of what JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Decision:
        """What ``to_dict`` gave; what an older model lacks is as if never chosen."""
        thresholds = saved.get("thresholds")
        return cls(**{**saved, "thresholds": None if thresholds is None else tuple(thresholds)})
