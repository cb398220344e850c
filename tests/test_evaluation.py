"""Every score agrees with scikit-learn on random inputs; the interval covers what it should."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from lastblock.errors import DataError
from lastblock.evaluation import (
    Evaluation,
    History,
    curves,
    evaluate,
    evaluate_labels,
    expected_calibration_error,
    most_probable,
    negative_log_likelihood,
    operating_points,
    reliability,
    wilson_interval,
)


@st.composite
def _judged(draw):
    """Labels and probabilities: some classes absent, some certain, sometimes one example."""
    k, n = draw(st.integers(1, 9)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    present = rng.choice(k, size=draw(st.integers(1, k)), replace=False)
    labels = rng.choice(present, size=n)
    logits = rng.normal(size=(n, k)) * draw(st.sampled_from([0.1, 1.0, 50.0]))
    logits[np.arange(n), labels] += draw(st.sampled_from([0.0, 2.0]))
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def _names(k):
    return [f"class {i}" for i in range(k)]


@settings(max_examples=100, deadline=None)
@given(_judged())
def test_scores_agree_with_scikit_learn(judged):
    labels, probabilities = judged
    k = probabilities.shape[1]
    predicted, numbers = probabilities.argmax(axis=1), list(range(k))
    ours = evaluate(labels, probabilities, _names(k))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about single classes and single examples
        confusion = metrics.confusion_matrix(labels, predicted, labels=numbers)
        mcc = metrics.matthews_corrcoef(labels, predicted)
        by_class = metrics.precision_recall_fscore_support(
            labels, predicted, labels=numbers, zero_division=0
        )
    assert ours.n == len(labels)
    assert ours.accuracy == metrics.accuracy_score(labels, predicted)
    assert ours.confusion == confusion.tolist()
    assert ours.mcc == pytest.approx(mcc, abs=1e-9)
    assert ours.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predicted, labels=numbers, average="macro", zero_division=0)
    )
    for name, reference in zip(("precision", "recall", "f1", "support"), by_class, strict=True):
        column = [scores[name] for scores in ours.per_class.values()]
        np.testing.assert_allclose(column, reference, rtol=1e-12)
    if k > 1:
        loss = metrics.log_loss(labels, probabilities, labels=numbers)
        assert ours.loss == pytest.approx(loss, abs=1e-12)
    one_hot = np.eye(k)[labels]
    brier = metrics.brier_score_loss(one_hot, probabilities, scale_by_half=k == 2) if k > 1 else 0
    assert ours.brier == pytest.approx(brier, abs=1e-12)
    low, high = ours.accuracy_ci95
    assert 0 <= low <= ours.accuracy <= high <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(counts):
    from scipy.stats import binomtest

    reference = binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert wilson_interval(*counts) == pytest.approx(reference, abs=1e-12)


def test_wilson_interval_of_the_books_test_part():
    low, high = wilson_interval(285, 300)
    assert (round(low, 3), round(high, 3)) == (0.919, 0.969)


@pytest.mark.parametrize(("p", "n"), [(0.5, 80), (0.9, 250), (0.95, 300), (0.2, 60)])
def test_interval_covers_the_truth(p, n):
    draws = np.random.default_rng(3).binomial(n, p, size=1000)
    intervals = [wilson_interval(int(k), n) for k in draws]
    covered = np.mean([low <= p <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(("n", "k", "rarest"), [(150, 4, 0.08), (300, 20, 0.02)])
def test_intervals_of_f1_cover_the_truth(n, k, rarest):
    rng = np.random.default_rng(3)
    share, recall = rng.uniform(rarest, 0.3, k), rng.uniform(0.4, 0.9, k)
    false_alarms = 0.1 * share
    hits, given = share * recall, share * recall + (1 - share) * false_alarms
    f1 = 2 * hits / (given + share)  # what it is over infinitely many texts
    truth = {"micro_f1": 2 * hits.sum() / (given + share).sum(), "macro_f1": f1.mean()}
    covered = dict.fromkeys(truth, 0)
    for _ in range(1000):
        has = rng.random((n, k)) < share
        said = np.where(has, rng.random((n, k)) < recall, rng.random((n, k)) < false_alarms)
        scores = evaluate_labels(has, said.astype(float), [*map(str, range(k))], said)
        for name, value in truth.items():
            low, high = getattr(scores, f"{name}_ci95")
            assert low <= getattr(scores, name) <= high
            covered[name] += low <= value <= high
    assert all(930 <= count <= 970 for count in covered.values()), covered


def test_impossible_events_cost_a_finite_loss():
    loss = negative_log_likelihood(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert loss == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_a_single_example_of_a_single_class():
    evaluation = evaluate([0], [[1.0]], ["only"])
    assert (evaluation.accuracy, evaluation.macro_f1, evaluation.mcc) == (1.0, 1.0, 0.0)
    assert evaluation.loss == 0.0


def test_equal_probabilities_go_to_the_first_class():
    assert evaluate([0, 1], [[0.5, 0.5]] * 2, ["a", "b"]).confusion == [[1, 0], [1, 0]]


def test_to_dict_is_json_in_a_fixed_order():
    evaluation = evaluate([0, 1, 1], np.eye(2, dtype=np.float32)[[0, 1, 0]], ["ham", "spam"])
    as_dict = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert list(as_dict) == list(Evaluation.__dataclass_fields__)
    assert as_dict["per_class"]["spam"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }
    assert as_dict["confusion"] == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], np.empty((0, 2)), "no examples"),
        ([0, 1], [[0.5, 0.5]], "shape"),
        ([0], [[0.2, 0.3, 0.5]], "shape"),
        ([2], [[0.5, 0.5]], "from 2 to 2"),
        ([-1], [[0.5, 0.5]], "from -1 to -1"),
        ([0.0], [[0.5, 0.5]], "float64"),
    ],
)
def test_what_does_not_belong_together_is_refused(labels, probabilities, message):
    with pytest.raises(DataError, match=message):
        evaluate(labels, probabilities, ["a", "b"])


def test_a_history_starts_empty_and_becomes_json():
    history = History()
    history.losses.append({"step": 0, "examples_seen": 8, "train_loss": 0.7})
    assert history.to_dict() == {
        "losses": [{"step": 0, "examples_seen": 8, "train_loss": 0.7}],
        "accuracies": [],
    }
    assert History().losses == []


@st.composite
def _events(draw):
    """Yeses and noes, and how probable they were said to be, with equal and extreme ones."""
    n = draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probability = rng.random(n).round(draw(st.sampled_from([1, 2, 17])))
    return rng.random(n) < draw(st.sampled_from([0.0, 0.3, 1.0])), probability


@settings(max_examples=50, deadline=None)
@given(_events())
def test_reliability_agrees_with_scikit_learn(events):
    happened, probability = events
    bins = reliability(happened, probability)
    share, said = calibration_curve(happened, probability, n_bins=15)
    np.testing.assert_allclose([b["share"] for b in bins], share)
    np.testing.assert_allclose([b["probability"] for b in bins], said)
    assert sum(b["n"] for b in bins) == len(happened)
    ece = sum(b["n"] * abs(b["share"] - b["probability"]) for b in bins) / len(happened)
    assert expected_calibration_error(happened, probability) == pytest.approx(ece)


def test_ece_counted_by_hand():
    happened = np.array([True, False, True, True])
    probability = np.array([0.9, 0.9, 0.55, 0.55])
    assert expected_calibration_error(happened, probability) == pytest.approx(0.425)
    labels, probabilities = np.array([1, 0]), np.array([[0.2, 0.8], [0.4, 0.6]])
    right, sure = most_probable(labels, probabilities)
    assert right.tolist() == [True, False]
    assert sure.tolist() == [0.8, 0.6]


@settings(max_examples=50, deadline=None)
@given(_events())
def test_operating_points_agree_with_scikit_learn(events):
    happened, probability = events
    points = operating_points(happened, probability)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about events that never happen
        precision, recall, thresholds = metrics.precision_recall_curve(happened, probability)
        average = metrics.average_precision_score(happened, probability)
    np.testing.assert_array_equal(points.threshold, thresholds[::-1])
    np.testing.assert_allclose(points.precision, precision[-2::-1])
    np.testing.assert_allclose(points.recall, recall[-2::-1])
    assert points.average_precision == pytest.approx(average)
    middle = len(points.threshold) // 2
    yes = probability >= points.threshold[middle]
    assert points.f1[middle] == pytest.approx(metrics.f1_score(happened, yes, zero_division=0))
    assert points.flagged[middle] == yes.sum()
    few = points.to_list(5)
    assert len(few) <= min(5, len(points.threshold))
    assert few[0]["threshold"] == probability.max()
    assert few[-1] == {
        "threshold": probability.min(),
        "precision": pytest.approx(happened.mean()),
        "recall": 1.0,
        "f1": pytest.approx(metrics.f1_score(happened, happened | True, zero_division=0)),
        "flagged": 1.0,
    }


def test_curves_of_every_class_are_json():
    rng = np.random.default_rng(0)
    found = curves(rng.random((500, 3)) < 0.4, rng.random((500, 3)), ["a", "b", "c"])
    assert list(json.loads(json.dumps(found))) == ["a", "b", "c"]
    assert 100 < len(found["a"]["points"]) <= 133
    assert 0 < found["a"]["average_precision"] < 1
