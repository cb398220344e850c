"""From probabilities to labels: thresholds against brute force and scikit-learn."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics

from lastblock.config import ThresholdRule, TrainConfig, parse_class_weight
from lastblock.decision import FEWEST_POSITIVES, Decision, choose_thresholds, with_thresholds
from lastblock.errors import ConfigError


def test_probabilities_are_softmax_s_or_each_label_s_own() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 200
    one, several = Decision(temperature=1.7), Decision(labels="several", temperature=1.7)
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
    assert Decision(labels="several").chosen(said).tolist() == [[True, False], [True, False]]


def test_what_is_less_probable_is_unsure() -> None:
    said = np.array([[0.7, 0.3], [0.45, 0.55]])
    assert Decision().unsure(said).tolist() == [False, False]
    assert Decision(abstain_below=0.6).unsure(said).tolist() == [False, True]
    # The label that is given counts, though it is the less probable one.
    assert Decision(thresholds=(0.3,), abstain_below=0.6).unsure(said).tolist() == [True, True]
    assert Decision(labels="several", abstain_below=0.6).unsure(said).tolist() == [False, True]


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    said = rng.random(n).round(draw(st.sampled_from([1, 16])))
    return rng.random(n) < draw(st.sampled_from([0.1, 0.5, 1.0])), said


def chosen_by(text: str, happened: np.ndarray, said: np.ndarray) -> np.ndarray:
    (threshold,) = choose_thresholds(ThresholdRule.parse(text), happened[:, None], said[:, None])
    return said >= threshold


@settings(max_examples=60, deadline=None)
@given(judged())
def test_each_rule_does_as_well_as_can_be(case: tuple[np.ndarray, np.ndarray]) -> None:
    happened, said = case
    ways = [said >= t for t in [*np.unique(said), 2.0]]  # every way to draw the line

    def right(yes: np.ndarray) -> int:
        return int((yes & happened).sum())

    def f1(yes: np.ndarray) -> float:
        return 2 * right(yes) / max(1, int(yes.sum() + happened.sum()))

    def cost(yes: np.ndarray) -> float:
        return 2.0 * int((yes & ~happened).sum()) + 3.0 * int((~yes & happened).sum())

    assert f1(chosen_by("f1", happened, said)) == pytest.approx(max(map(f1, ways)))
    assert cost(chosen_by("cost=2:3", happened, said)) == pytest.approx(min(map(cost, ways)))
    flagged = [yes for yes in ways if yes.any()]
    precision = {id(yes): right(yes) / yes.sum() for yes in flagged}
    wanted = min(0.8, max(precision.values()))
    most = max(yes.sum() for yes in flagged if precision[id(yes)] >= wanted)
    assert chosen_by("precision=0.8", happened, said).sum() == most
    reached = [yes for yes in flagged if right(yes) >= 0.7 * happened.sum()]
    assert chosen_by("recall=0.7", happened, said).sum() == min(yes.sum() for yes in reached)


def test_labels_of_few_texts_share_a_threshold() -> None:
    rng = np.random.default_rng(4)
    said = rng.random((300, 3))
    truth = rng.random((300, 3)) < said * [0.9, 0.5, 0.01]
    assert truth.sum(axis=0)[2] < FEWEST_POSITIVES < truth.sum(axis=0)[1]
    found = with_thresholds(Decision(labels="several"), ThresholdRule("f1"), truth, said)
    assert found.thresholds is not None
    (together,) = choose_thresholds(ThresholdRule("f1"), truth.reshape(-1, 1), said.reshape(-1, 1))
    assert found.thresholds[2] == together
    assert len({*found.thresholds}) == 3
    tuned = metrics.f1_score(truth, found.chosen(said), average="macro")
    plain = metrics.f1_score(truth, Decision(labels="several").chosen(said), average="macro")
    assert tuned > plain


def test_a_number_is_a_threshold_for_whatever_is_asked() -> None:
    said, rule = np.array([[0.4, 0.6]]), ThresholdRule.parse("0.7")
    assert with_thresholds(Decision(), rule, np.array([1]), said).thresholds == (0.7,)
    several = with_thresholds(Decision(labels="several"), rule, said > 0, said)
    assert several.thresholds == (0.7, 0.7)


def test_of_two_classes_the_threshold_is_for_the_second() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, 400)
    second = np.clip(0.3 * truth + rng.normal(0.3, 0.15, 400), 0, 1)
    said = np.column_stack([1 - second, second])
    found = with_thresholds(Decision(), ThresholdRule("f1"), truth, said)
    best = max(metrics.f1_score(truth, second >= t) for t in np.unique(second))
    assert metrics.f1_score(truth, found.chosen(said).argmax(axis=1)) == pytest.approx(best)


@pytest.mark.parametrize(
    "text",
    [
        *("f2", "precision", "precision=1.5", "recall=x", "cost=1", "cost=1:-1", "cost=1:2:3"),
        *("f1=1", "f1=", "=0.5", "x=0.5", "1.0", "0", "-1", "nan", "inf", "precision="),
        *("cost=inf:1", "cost=1,2", "", 7, 0.0, "precision=nan"),
    ],
)
def test_rules_that_make_no_sense_are_refused(text: str | float) -> None:
    with pytest.raises(ConfigError, match=r"--threshold is .*precision=P"):
        TrainConfig(threshold=text)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("balanced", "balanced"),
        ("spam=3", {"spam": 3}),
        ("spam=3, ham=0.5", {"spam": 3, "ham": 0.5}),
        ("a=b=2", {"a=b": 2}),
    ],
)
def test_class_weights_as_one_writes_them(text: str, weights: object) -> None:
    assert parse_class_weight(text) == weights
    assert TrainConfig(class_weight=parse_class_weight(text)).class_weight == weights


@pytest.mark.parametrize("text", ["", "even", "spam", "spam=", "spam=x", "spam=-1", "a=1,,b=2"])
def test_class_weights_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--class-weight is .*balanced, or classes"):
        TrainConfig(class_weight=parse_class_weight(text))


@pytest.mark.parametrize("text", ["f1", "precision=0.95", "recall=1", "cost=1:10", "0.7", 0.3])
def test_rules_that_make_sense_are_taken(text: str | float) -> None:
    assert TrainConfig(threshold=text).threshold == text


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"abstain_below": 1.5}, "--abstain-below is 1.5"),
        ({"abstain_below": 0}, "--abstain-below is 0"),
        ({"abstain_below": "much"}, "--abstain-below is 'much'"),
        ({"class_weight": "even"}, "--class-weight is 'even'"),
        ({"class_weight": {"a": 0}}, "--class-weight is"),
        ({"class_weight": {"a": "b"}}, "--class-weight is"),
    ],
)
def test_other_settings_that_make_no_sense_are_refused(
    setting: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**setting)  # type: ignore[arg-type]


def test_it_says_what_it_does_and_comes_back_from_json() -> None:
    names = ["ham", "spam"]
    assert Decision().describe(names) is None
    binary = Decision(thresholds=(0.312,), abstain_below=0.6)
    assert binary.describe(names) == (
        "'spam' is given from a probability of 0.312 on, else 'ham'; "
        '"unsure" stands where the label is less probable than 0.6'
    )
    several = Decision(labels="several", temperature=1.5, thresholds=(0.2, 0.4))
    assert (
        several.describe(names) == "a label is given from a probability of 0.2 to 0.4 (by label) on"
    )
    for decision in (Decision(), binary, several):
        assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
