"""Counts, duplicates and contradictions; and what cannot be trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.catalog import load
from lastblock.data.examples import Examples, Label
from lastblock.data.inspection import check_trainable, count_shared, inspect, normalise
from lastblock.errors import DataError


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("WINNER!! Call 0901 now", "winner call 5555 now..."),
        ("a\t b\u00a0\n", "A b"),
        ("it's", "It’s"),
        ("£5", "£7"),
    ],
)
def test_small_differences_are_folded(text: str, same: str) -> None:
    assert normalise(text) == normalise(same)


@pytest.mark.parametrize(
    ("text", "other"), [("👍", "👎"), (":)", ":("), ("कि", "का"), ("naïve", "naive"), ("ab", "a b")]
)
def test_what_bears_meaning_is_kept(text: str, other: str) -> None:
    assert normalise(text) != normalise(other)


@given(st.text())
def test_a_text_with_something_in_it_does_not_become_empty(text: str) -> None:
    assert bool(normalise(text)) == bool(text.strip())
    assert normalise(" " + text + "\n") == normalise(text)


def test_counts() -> None:
    texts = ["a", "b", "a", "A!", "b", "c"]
    found = inspect(Examples(texts, ["x", "y", "x", "x", "x", "y"], "here"))
    assert found.rows == 6
    assert found.classes == {"x": 4, "y": 2}
    assert (found.duplicates, found.near_duplicates, found.conflicting) == (2, 3, 1)
    assert json.loads(json.dumps(found.to_dict()))["longest"] == 2


def test_nothing_can_be_inspected() -> None:
    assert inspect(Examples([], [], "here")).rows == 0


def test_the_sms_spam_collection(lastblock_data: Path) -> None:
    found = inspect(load("sms-spam"))
    assert found.rows == 5574
    assert found.classes == {"ham": 4827, "spam": 747}
    assert found.duplicates == 403


def test_bbc_news_repeats_articles(lastblock_data: Path) -> None:
    from lastblock.data.readers import read_examples

    assert inspect(read_examples(lastblock_data / "bbc_news" / "all.csv")).duplicates == 98


def test_shared_texts_are_counted_by_row() -> None:
    assert count_shared(["a", "b"], ["a", "a", "c", "B"]) == 2


def test_good_examples_pass() -> None:
    check_trainable(Examples(["a", "b", "c", "d"], ["x", "x", "y", "y"], "here"))
    numbers: list[Label] = [*np.array([0, 0, 1, 1])]
    check_trainable(Examples(["a", "b", "c", "d"], numbers, "here"))


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "here: no examples"),
        (["a", "b"], ["x", "x"], "here: only one class, 'x'"),
        (["a", "b", "c"], ["x", "x", "y"], "here: class 'y' has a single example"),
        (["a", "b", "c", "d"], ["x", "x", "y", "z"], "classes 'y', 'z' have a single example"),
        (["a", " ", ""], ["x", "x", "y"], "here: a text is empty in rows 2, 3"),
        (["a", None], ["x", "y"], "here: a text is not a string in row 2"),
        (["a", "b"], ["x", float("nan")], "a label is neither .* in row 2"),
    ],
)
def test_what_cannot_be_trained_on(texts: list[str], labels: list[Label], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_trainable(Examples(texts, labels, "here"))


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_normalised_as_other_text_is(text):
    """The short way for ASCII gives what the long one does, which one other letter asks for."""
    longer = normalise(f"{text} é")
    assert longer in ("é", f"{normalise(text)} é")
