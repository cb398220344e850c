"""What to label next: texts that the model is unsure of, and that are unlike one another.

BADGE (Ash, Zhang, Krishnamurthy, Langford and Agarwal 2020, "Deep Batch Active Learning by
Diverse, Uncertain Gradient Lower Bounds", section 3): each text has the gradient that it would give
the head if its likeliest class were its label, long where the model is unsure; texts are drawn by
k-means++ (Arthur and Vassilvitskii 2007) over these gradients. Knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lastblock.activations import TOKEN_BUDGET
from lastblock.data.cleaning import write_table
from lastblock.data.examples import Label
from lastblock.data.inspection import normalise
from lastblock.inference import TextModel
from lastblock.runtime import Progress, Silent
from lastblock.tokenization.batching import token_budget_batches

Rows = npt.NDArray[np.int64]
States = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """A text to label: its row (from 1), and what the model makes of it so far."""

    row: int
    text: str
    predicted: Label
    probability: float


def suggest(
    model: TextModel,
    texts: Sequence[str],
    n: int,
    *,
    known: Sequence[str] = (),
    seed: int = 123,
    progress: Progress | None = None,
) -> list[Suggestion]:
    """At most ``n`` of the texts, each worth a label beside the others, in the order drawn.

    Of texts that are equal but for case, digits and punctuation one is taken; none that equals one
    of ``known``, those that have labels already.
    """
    done = {normalise(text) for text in known}
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if normalise(text) not in done:
            first.setdefault(normalise(text), row)
    rows = list(first.values())
    states, probabilities = _judged(model, [texts[row] for row in rows], progress or Silent())
    return [
        Suggestion(
            rows[i] + 1,
            texts[rows[i]],
            model.classes[probabilities[i].argmax()],
            float(probabilities[i].max()),
        )
        for i in choose(states, probabilities, n, seed)
    ]


def write_suggestions(suggestions: Sequence[Suggestion], path: Path) -> None:
    """Write a table to label: its last column is empty, and it can be trained on when filled in.

    Raises:
        ConfigError: another suffix than .csv, .tsv or .jsonl. DataError: it cannot be written.
    """
    names = ("row", "text", "predicted", "probability", "label")
    rows = ((s.row, s.text, s.predicted, f"{s.probability:.4f}", "") for s in suggestions)
    write_table(path, names, rows)


def _judged(
    model: TextModel, texts: Sequence[str], progress: Progress
) -> tuple[States, Probabilities]:
    """What the head reads of each text (n, C), and what the model makes of it (n, n_classes)."""
    sequences = model.encode(texts, progress)
    states = np.empty((len(texts), model.classifier.head.in_features), np.float32)
    probabilities = np.empty((len(texts), len(model.classes)))
    read: list[Tensor] = []
    hook = model.classifier.head.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        with progress.task("look", len(texts), "texts") as advance:
            for rows in token_budget_batches([len(ids) for ids in sequences], TOKEN_BUDGET):
                read.clear()
                probabilities[rows] = model.probabilities([sequences[i] for i in rows])
                states[rows] = torch.cat(read).numpy()
                advance(len(rows))
    finally:
        hook.remove()
    return states, probabilities


def choose(states: States, probabilities: Probabilities, n: int, seed: int) -> Rows:
    """At most ``n`` rows, unsure and unlike one another.

    Args:
        states: what the head reads of each text (rows, C).
        probabilities: what it makes of it (rows, n_classes).
        n: rows wanted.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    # The gradient of text i is the outer product of error[i] and states[i]; never written out.
    error = probabilities.copy()
    error[np.arange(len(error)), error.argmax(axis=1)] -= 1
    squares = (error**2).sum(axis=1) * (states.astype(np.float64) ** 2).sum(axis=1)
    distances = squares.copy()
    chosen: list[int] = []
    while len(chosen) < min(n, len(states)):
        total = distances.sum()
        weights = distances / total if total > 0 else None
        row = int(rng.choice(len(states), p=weights)) if chosen else int(squares.argmax())
        if total <= 0:  # all others are as one that was drawn, or the model is sure of them
            left = np.setdiff1d(np.arange(len(states)), chosen)
            return np.array([*chosen, *left[: n - len(chosen)]], np.int64)
        chosen.append(row)
        common = (error @ error[row]) * (states @ states[row])
        distances = np.minimum(distances, np.maximum(squares + squares[row] - 2 * common, 0))
        distances[chosen] = 0
    return np.array(chosen, np.int64)
