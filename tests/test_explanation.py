"""Occlusion: the words, the texts without them, and effects that are differences of predictions."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.explanation import explain, spans, without_each


def counts_a(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """A "model" whose second class is the likelier the more letters a there are."""
    share = np.array([text.count("a") / 10 for text in texts])
    return np.stack([1 - share, share], axis=1)


def test_a_word_is_worth_what_the_prediction_loses_without_it() -> None:
    pieces = explain(counts_a, "banana  tree\nalas", label=1)
    assert [(p.start, p.end) for p in pieces] == [(0, 6), (8, 12), (13, 17)]
    assert [p.effect for p in pieces] == pytest.approx([0.3, 0, 0.2])


def test_the_likeliest_class_is_explained_if_none_is_named() -> None:
    assert explain(counts_a, "banana tree")[0].effect == pytest.approx(-0.3)


def test_texts_without_each_word() -> None:
    text = "one two  three"
    assert without_each(text, spans(text)) == ["two  three", "one three", "one two  "]


@given(st.text(), st.integers(1, 9))
def test_pieces_cover_every_word_once_in_order(text: str, most: int) -> None:
    parts = spans(text, most)
    assert len(parts) <= most
    assert " ".join(text[start:end] for start, end in parts).split() == text.split()
    assert all(a[1] < b[0] for a, b in pairwise(parts))
