"""The baseline is no strawman, gives every class a column, and says the same twice."""

import csv
import warnings

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from lastblock.baseline import _CharacterCounts, fit_baseline, out_of_fold_probabilities
from lastblock.data.split import folds

TEXTS = ["WIN a prize!!! call 0800 now", "win CASH now :)", "see you at dinner", "dinner at 8?"]
LABELS = [1, 1, 0, 0]


def test_it_learns():
    probabilities = fit_baseline(TEXTS, LABELS, 2, seed=1).predict_proba(
        ["a cash prize, call now", "see you for dinner"]
    )
    assert probabilities.argmax(axis=1).tolist() == [1, 0]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_classes_absent_in_training_have_columns():
    baseline = fit_baseline([*TEXTS, "the gas bill"], [4, 4, 2, 2, 1], 6, seed=1)
    probabilities = baseline.predict_proba(TEXTS)
    assert probabilities.shape == (4, 6)
    assert probabilities.dtype == np.float64
    assert not probabilities[:, [0, 3, 5]].any()
    assert probabilities.argmax(axis=1).tolist() == [4, 4, 2, 2]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_one_class_in_training_is_certain():
    probabilities = fit_baseline(TEXTS, [1, 1, 1, 1], 2, seed=1).predict_proba(["anything"])
    assert probabilities.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("has", [0, 1])
def test_of_several_labels_that_no_text_has_or_every_one_as_much_is_certain(has):
    labels = np.full((20, 3), has)
    found = fit_baseline(["win cash", "home dinner"] * 10, labels, 3, seed=1)
    np.testing.assert_array_equal(found.predict_proba(["win", "else"]), np.full((2, 3), has))


def test_no_texts_and_texts_of_nothing_known():
    baseline = fit_baseline(TEXTS, LABELS, 2, seed=1)
    assert baseline.predict_proba([]).shape == (0, 2)
    assert np.isfinite(baseline.predict_proba(["", "  ", "日本語"])).all()


def test_same_seed_same_probabilities():
    first, second = (fit_baseline(TEXTS, LABELS, 2, seed=7).predict_proba(TEXTS) for _ in "ab")
    np.testing.assert_array_equal(first, second)


def test_out_of_fold_nothing_is_known_of_a_text_itself():
    # Each text's words are its own and say its class, so that only having learnt from it helps.
    texts = [f"{chr(97 + i) * 6} {chr(65 + i) * 5}" for i in range(18)]
    labels = np.arange(18) % 2
    learnt = fit_baseline(texts, labels, 2, seed=1).predict_proba(texts)
    thirds = folds(texts, labels.tolist(), k=3, seed=1)
    in_turn = out_of_fold_probabilities(texts, labels, 2, 1, thirds)
    assert (learnt.argmax(1) == labels).all()
    assert in_turn.shape == (18, 2)
    np.testing.assert_allclose(in_turn.sum(axis=1), 1)
    assert np.abs(in_turn - 0.5).max() < 0.2 < np.abs(learnt - 0.5).min()


def test_character_counts_are_those_of_scikit_learn():
    texts = [*TEXTS, "", "a", "tab\tand\u00a0no-break  space", "İstanbul ÇOK güzel", "x" * 9]
    reference = CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))
    ours = _CharacterCounts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = ours.fit_transform(texts)
    np.testing.assert_array_equal(fitted.toarray(), reference.fit_transform(texts).toarray())
    new = ["an unseen prize", "dinner"]
    expected = reference.transform(new).toarray()
    np.testing.assert_array_equal(ours.transform(new).toarray(), expected)


def _read(path):
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


# What TF-IDF with logistic regression reached on 2,000 training examples when it was measured
# with another implementation, less what a draw of the examples can cost.
@pytest.mark.parametrize(
    ("name", "accuracy"), [("trec6", 0.84), ("sst2", 0.75), ("tweeteval_emotion", 0.66)]
)
def test_it_is_no_strawman(lastblock_data, name, accuracy):
    texts, labels = _read(lastblock_data / name / "train.csv")
    rows = np.random.default_rng(0).permutation(len(texts))[:2000]
    names, numbers = np.unique(labels, return_inverse=True)
    baseline = fit_baseline([texts[i] for i in rows], numbers[rows], len(names), seed=1)
    test_texts, test_labels = _read(lastblock_data / name / "test.csv")
    predicted = names[baseline.predict_proba(test_texts).argmax(axis=1)]
    assert (predicted == test_labels).mean() >= accuracy
