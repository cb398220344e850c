"""Decision: from logits to probabilities, and from probabilities to the labels that are given.

It is saved with the model: the temperature of its probabilities, the thresholds of its labels, and
the probability below which it would rather say nothing. Knows arrays; no texts, no label names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """How a model makes up its mind.

    ``temperature`` divides the logits (see ``calibration``).
    """

    temperature: float = 1.0

    def probabilities(self, logits: Floats) -> Floats:
        """Logits (n, k) -> probabilities (n, k), float64."""
        scaled = logits / self.temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def to_dict(self) -> dict[str, Any]:
        """The same, made of what JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Decision:
        """What ``to_dict`` gave; what an older model lacks is as if never chosen."""
        return cls(**saved)
