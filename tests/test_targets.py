"""Labels in every form people give them, and what classes count for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from lastblock.errors import DataError
from lastblock.targets import class_weights, read_targets, weigh

SETS = [["b", "a"], [], ["c"], ["a"]]


@pytest.mark.parametrize(
    "given",
    [
        SETS,
        [tuple(of) for of in SETS],
        [set(of) for of in SETS],
        [np.array(of, dtype=object) for of in SETS],
        pl.Series(SETS),
        np.array([*map(tuple, SETS)], dtype=object),
    ],
    ids=["lists", "tuples", "sets", "arrays", "series", "array of tuples"],
)
def test_several_labels_in_every_form(given: object) -> None:
    targets = read_targets(given)
    assert targets.form == "several"
    assert targets.classes.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(
        targets.numbers(["a", "b", "c"]), MultiLabelBinarizer().fit_transform(SETS)
    )


@pytest.mark.parametrize("form", [np.array, csr_array, np.ndarray.tolist, list])
def test_an_indicator_matrix(form: Callable[[np.ndarray], Any]) -> None:
    matrix = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1]])
    targets = read_targets(form(matrix))
    assert (targets.form, targets.classes.tolist()) == ("columns", [0, 1, 2])
    np.testing.assert_array_equal(targets.numbers([0, 1, 2]), matrix)


def test_one_label_is_one() -> None:
    targets = read_targets(np.array(["b", "a", "b"]))
    assert (targets.form, targets.labels) == ("one", ["b", "a", "b"])
    assert targets.numbers(["a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([["a"], "b"], "label 1 is 'b', others are lists"),
        ([["a"], 3], "label 1 is 3, others are lists"),
        ([["a"], [1]], "different types"),
        ([["a", 0.5]], "a label of text 0 is 0.5"),
        ([["a", "a"]], "labels of text 0 name one twice"),
        ([[0, 1, 1], [0]], "labels of text 0 name one twice"),
        (np.array([[1, 2], [0, 1]]), "not all 0 or 1"),
        (None, "requires y"),
    ],
)
def test_what_is_no_labels_is_refused(given: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_targets(given)


def test_a_label_that_is_unknown_is_named() -> None:
    with pytest.raises(DataError, match="'c' was not there in training; known: 'a', 'b'"):
        read_targets(SETS).numbers(["a", "b"])


def test_labels_take_the_form_of_those_that_were_learnt() -> None:
    one = read_targets(["b", "a"])
    assert one.for_form("one") is one
    assert one.for_form("several").numbers(["a", "b"]).tolist() == [[False, True], [True, False]]
    with pytest.raises(DataError, match="one label a text, not several"):
        read_targets(SETS).for_form("one")


def test_balanced_weights_are_scikit_learn_s() -> None:
    numbers = np.random.default_rng(0).choice(4, 300, p=[0.7, 0.2, 0.05, 0.05])
    of_class = class_weights("balanced", numbers, list("abcd"))
    reference = compute_class_weight("balanced", classes=np.arange(4), y=numbers)
    np.testing.assert_allclose(of_class, reference)
    ours = weigh(numbers, of_class)
    np.testing.assert_allclose(ours, compute_sample_weight("balanced", numbers))
    assert ours.mean() == pytest.approx(1)


def test_balanced_weights_of_labels_are_scikit_learn_s_of_each() -> None:
    has = np.random.default_rng(1).random((200, 3)) < [0.5, 0.1, 0.02]
    ours = class_weights("balanced", has, list("abc"))
    weights = weigh(has, ours)
    for column, answers, of_each in zip(ours.T, has.T, weights.T, strict=True):
        reference = compute_class_weight("balanced", classes=np.array([False, True]), y=answers)
        np.testing.assert_allclose(column, reference)
        np.testing.assert_allclose(of_each, compute_sample_weight("balanced", answers))


def test_weights_by_name() -> None:
    numbers = np.array([0, 1, 2, 1])
    assert class_weights({"7": 3}, numbers, [5, 7, 9]).tolist() == [1, 3, 1]
    has = np.array([[True, False], [True, True]])
    of_class = class_weights({"b": 4.0}, has, ["a", "b"])
    assert of_class.tolist() == [[1, 1], [1, 4]]
    assert weigh(has, of_class).tolist() == [[1, 1], [1, 4]]
    with pytest.raises(DataError, match="names 'x', which is no class; known: 5, 7, 9"):
        class_weights({"x": 1}, numbers, [5, 7, 9])
