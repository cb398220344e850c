"""What to label next: texts that the model is unsure of, and that are unlike one another.

Greedy k-center (Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A
Core-Set Approach", algorithm 1) over the states that the classifier reads, every distance
multiplied by how unsure the model is: 1 less the margin between its two likeliest classes
(Scheffer, Decomain and Wrobel 2001). docs/experiments.md has what else was tried. Knows no files
but the one it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from lastblock.errors import ConfigError
from lastblock.inference import TextModel
from lastblock.runtime import Progress, Silent
from lastblock.tokenization.batching import shared_batches

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


def choose(states: States, probabilities: Probabilities, n: int) -> Rows:
    """At most ``n`` rows: each the one that is unsure and far from those before it, as a product.

    Args:
        states: what is known of each text (rows, n_features); standardised here.
        probabilities: what it makes of it (rows, n_classes).
        n: rows wanted.
    """
    # A few of a decoder's dimensions are hundreds of times as wide as the others.
    states = (states - states.mean(axis=0)) / np.maximum(states.std(axis=0), 1e-6)
    likeliest = np.sort(probabilities, axis=1)
    doubt = 1 - (likeliest[:, -1] - likeliest[:, -2])
    squares = (states**2).sum(axis=1)
    score, nearest = doubt.copy(), np.full(len(states), np.inf)
    chosen: list[int] = []
    while len(chosen) < min(n, len(states)):
        row = int(score.argmax())
        chosen.append(row)
        apart = squares + squares[row] - 2 * (states @ states[row])  # squared; may round below 0
        nearest = np.minimum(nearest, np.sqrt(np.maximum(apart, 0)))
        score = doubt * nearest
        score[chosen] = -1.0
    return np.array(chosen, np.int64)


def suggest(
    model: TextModel,
    texts: Sequence[str],
    n: int,
    *,
    known: Sequence[str] = (),
    by: Callable[[States, Probabilities, int], Rows] = choose,
    progress: Progress | None = None,
) -> list[Suggestion]:
    """At most ``n`` of the texts, each worth a label beside those before it, most wanted first.

    Of texts that are equal but for case, digits and punctuation one is taken; none that equals one
    of ``known``, those that have labels already. ``by`` does the choosing.

    Raises:
        ConfigError: the model gives a text several labels.
    """
    if model.decision.multilabel:
        raise ConfigError(
            "this model gives a text several labels; suggest is for models that give one"
        )
    done = {normalise(text) for text in known}
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if normalise(text) not in done:
            first.setdefault(normalise(text), row)
    rows = list(first.values())
    if not rows:
        return []
    states, probabilities = _judged(model, [texts[row] for row in rows], progress or Silent())
    return [
        Suggestion(
            rows[i] + 1,
            texts[rows[i]],
            model.classes[predicted],
            float(probabilities[i, predicted]),
        )
        for i in by(states, probabilities, n)
        for predicted in [model.foremost(probabilities[i])]
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
    """What the probe, or else the head, reads of each text, and what the model makes of it.

    Shapes (n, n_features) and (n, n_classes).
    """
    sequences = model.encode(texts, progress)
    reader = model.classifier.probe or model.classifier.head
    states = np.empty((len(texts), reader.in_features), np.float32)
    probabilities = np.empty((len(texts), len(model.classes)))
    read: list[Tensor] = []
    hook = reader.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    try:
        with progress.task("look", len(texts), "texts") as advance:
            for rows in shared_batches(sequences, TOKEN_BUDGET):
                read.clear()
                probabilities[rows] = model.probabilities([sequences[i] for i in rows])
                states[rows] = torch.cat(read).numpy()
                advance(len(rows))
    finally:
        hook.remove()
    return states, probabilities
