"""Which words decided: each is left out in turn, and what the probability loses is its effect.

Occlusion (Zeiler and Fergus 2014, for images; Li, Monroe and Jurafsky 2016, for words): honest
about the model, since every number is a prediction of it, and blind to words that matter only
together. Knows no model: whoever asks runs the texts. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_PIECES = 64

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A word (or neighbouring words) of a text: ``text[start:end]``, and what it does.

    ``effect`` is the class's probability with the piece less that without it: above 0 it spoke
    for the class, below 0 against.
    """

    start: int
    end: int
    effect: float


def spans(text: str, most: int = MOST_PIECES) -> list[tuple[int, int]]:
    """Where the words stand, (start, end) each; neighbours are joined so that none exceed most."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    size = -(-len(words) // most) or 1
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    return [(group[0][0], group[-1][1]) for group in groups]


def without_each(text: str, parts: Sequence[tuple[int, int]]) -> list[str]:
    """The text without its first part, without its second, ..."""
    return [text[:start] + text[end:].lstrip() for start, end in parts]


def effects(
    parts: Sequence[tuple[int, int]], whole: Probabilities, without: Probabilities, label: int
) -> list[Piece]:
    """Pieces with their effect on class ``label``.

    Args:
        parts: as ``spans`` found them, n of them.
        whole: probabilities of the text (n_classes,).
        without: probabilities of the texts that ``without_each`` made (n, n_classes).
        label: index of the class to explain.
    """
    lost = whole[label] - without[:, label]
    return [Piece(start, end, float(x)) for (start, end), x in zip(parts, lost, strict=True)]


def explain(
    predict_proba: Callable[[list[str]], Probabilities], text: str, label: int | None = None
) -> list[Piece]:
    """Explain one text in one batch of n + 1 predictions; the likeliest class if none is given."""
    parts = spans(text)
    probabilities = predict_proba([text, *without_each(text, parts)])
    whole = probabilities[0]
    return effects(parts, whole, probabilities[1:], int(whole.argmax()) if label is None else label)
