"""From logits to probabilities, and from probabilities to labels."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from lastblock.decision import Decision


def test_probabilities_are_softmax_s_or_each_label_s_own() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 200
    one = Decision(temperature=1.7)
    several = Decision(labels="several", temperature=1.7)
    np.testing.assert_allclose(one.probabilities(logits), softmax(logits / 1.7, axis=1))
    np.testing.assert_allclose(several.probabilities(logits), expit(logits / 1.7))


def test_the_most_probable_class_the_first_of_equals() -> None:
    said = np.array([[0.2, 0.4, 0.4], [0.5, 0.25, 0.25]])
    assert Decision().chosen(said).argmax(axis=1).tolist() == [1, 0]
    assert Decision().chosen(said).sum(axis=1).tolist() == [1, 1]


def test_thresholds_decide() -> None:
    said = np.array([[0.7, 0.3], [0.8, 0.2]])
    assert Decision(thresholds=(0.3,)).chosen(said).argmax(axis=1).tolist() == [1, 0]
    several = Decision(labels="several", thresholds=(0.75, 0.25))
    assert several.chosen(said).tolist() == [[False, True], [True, False]]
    plain = Decision(labels="several").chosen(said)
    assert plain.tolist() == [[True, False], [True, False]]


def test_what_is_less_probable_is_unsure() -> None:
    said = np.array([[0.7, 0.3], [0.45, 0.55]])
    assert Decision().unsure(said).tolist() == [False, False]
    assert Decision(abstain_below=0.6).unsure(said).tolist() == [False, True]
    # The label that is given counts, though it is the less probable one.
    assert Decision(thresholds=(0.3,), abstain_below=0.6).unsure(said).tolist() == [True, True]
    assert Decision(labels="several", abstain_below=0.6).unsure(said).tolist() == [False, True]


@pytest.mark.parametrize("thresholds", [None, (0.2, 0.4)])
def test_it_comes_back_from_json(thresholds: tuple[float, ...] | None) -> None:
    decision = Decision(labels="several", temperature=1.5, thresholds=thresholds)
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
