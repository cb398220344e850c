"""Undersampling: every class down to the smallest."""

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.balance import undersample
from lastblock.data.catalog import load


@given(st.lists(st.sampled_from(["x", "y", 3])), st.integers(0, 2**32 - 1))
def test_equal_classes_no_row_twice(labels: list[str | int], seed: int) -> None:
    rows = undersample(labels, seed=seed)
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == len(rows)
    counts = Counter(labels)
    drawn = Counter(labels[row] for row in rows)
    assert drawn == dict.fromkeys(counts, min(counts.values(), default=0))
    assert (rows == undersample(labels, seed=seed)).all()


def test_the_seed_decides() -> None:
    labels = ["x"] * 100 + ["y"] * 10
    assert (undersample(labels, seed=1) != undersample(labels, seed=2)).any()


def test_the_books_1494_messages(lastblock_data: Path) -> None:
    examples = load("sms-spam")
    drawn = examples.take(undersample(examples.labels, seed=123))
    assert Counter(drawn.labels) == {"ham": 747, "spam": 747}
