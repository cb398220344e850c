"""Every number of report.json is what scikit-learn computes from the predictions beside it."""

import csv
import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reports import report as made_up
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.dummy import DummyClassifier
from tiny import messages

from lastblock import TextClassifier, finetune
from lastblock.baseline import fit_baseline
from lastblock.calibration import Calibration
from lastblock.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from lastblock.data.examples import Examples
from lastblock.decision import Decision
from lastblock.evaluation import RELIABILITY_BINS, History
from lastblock.finetune import (
    PREDICTIONS,
    _doubts,
    _encode,
    _scores,
    _scores_before,
    _write_predictions,
)
from lastblock.report import write_report

PARTS = ("train", "validation", "test")


class Oracle:
    """Stands for a trained model: what it says of a text is written in a table."""

    def __init__(self, names: list[str], untrained: np.ndarray, trained: np.ndarray, t: float):
        self.class_names, self.decision = names, Decision(temperature=t)
        self.tables, self.classifier, self.which = [untrained, trained], self, 1

    def encode(self, texts: list[str]) -> list[int]:
        return [int(text) for text in texts]

    def tail_state(self) -> int:
        return 1

    def load_tail_state(self, which: int) -> None:
        self.which = which

    def logits(self, rows: list[int]) -> np.ndarray:
        return self.tables[self.which][rows]


@st.composite
def _runs(draw: Any) -> tuple[dict[str, Examples], Oracle]:
    """Parts in which classes are missing, and logits of which many are equal."""
    k = draw(st.integers(2, 6))
    names = [f"class {i}" for i in range(k)]
    sizes = [draw(st.integers(k, 40)), *(draw(st.integers(1, 40)) for _ in range(2))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, k, sum(sizes))
    labels[:k] = np.arange(k)
    labels[-sizes[-1] :] = rng.choice(rng.choice(k, draw(st.integers(1, k))), sizes[-1])
    digits = draw(st.sampled_from([0, 1, 17]))
    untrained, trained = rng.normal(scale=2, size=(2, len(labels), k)).round(digits)
    trained[np.arange(len(labels)), labels] += draw(st.sampled_from([0.0, 3.0]))
    parts = {}
    of_parts = np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1])
    for name, rows in zip(PARTS, of_parts, strict=True):
        texts = [str(row) for row in rows]
        parts[name] = Examples(texts, [names[i] for i in labels[rows]], "data", rows=rows)
    temperature = draw(st.sampled_from([0.5, 1.0, 1.7]))
    return parts, Oracle(names, untrained, trained, temperature)


def classifier_of(oracle: Oracle, validation: int) -> Any:
    classifier: Any = TextClassifier()
    classifier.model_, classifier.classes_ = oracle, np.array(oracle.class_names)
    classifier.initial_tail_ = 0
    classifier.calibration_ = Calibration(oracle.decision.temperature, validation, applied=True)
    return classifier


def saved(folder: Path, names: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """Of each part in predictions.csv: class numbers, predicted ones, probabilities."""
    with (folder / PREDICTIONS).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found = {}
    for part in PARTS:
        of = [line for line in lines if line["part"] == part]
        truth = np.array([names.index(line["label"]) for line in of])
        said = np.array([names.index(line["predicted"]) for line in of])
        columns = [[float(line[f"probability_{name}"]) for name in names] for line in of]
        found[part] = truth, said, np.array(columns)
    return found


def check_scores(ours: dict[str, Any], truth: Any, said: Any, probabilities: Any) -> None:
    """Everything under ``splits``, ``before_training``, ``baseline`` and ``majority``."""
    k = probabilities.shape[1]
    numbers, right = list(range(k)), int((truth == said).sum())
    by_class = metrics.precision_recall_fscore_support(truth, said, labels=numbers, zero_division=0)
    macro = metrics.f1_score(truth, said, labels=numbers, average="macro", zero_division=0)
    interval = binomtest(right, len(truth)).proportion_ci(0.95, method="wilson")
    assert ours["n"] == len(truth)
    assert ours["accuracy"] == metrics.accuracy_score(truth, said)
    assert ours["accuracy_ci95"] == pytest.approx(list(interval), abs=1e-12)
    assert ours["macro_f1"] == pytest.approx(macro)
    assert ours["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said), abs=1e-9)
    confusion = metrics.confusion_matrix(truth, said, labels=numbers)
    assert ours["confusion"] == confusion.tolist()
    for key, reference in zip(("precision", "recall", "f1", "support"), by_class, strict=True):
        column = [of[key] for of in ours["per_class"].values()]
        assert column == pytest.approx(list(reference))
    check_calibration(ours, truth, probabilities)


def check_calibration(ours: dict[str, Any], truth: Any, probabilities: Any) -> None:
    k = probabilities.shape[1]
    brier = metrics.brier_score_loss(np.eye(k)[truth], probabilities, scale_by_half=k == 2)
    assert ours["loss"] == pytest.approx(metrics.log_loss(truth, probabilities, labels=range(k)))
    assert ours["brier"] == pytest.approx(brier, abs=1e-9)
    # Bin by bin, as Guo et al. write it.
    happened, sure = probabilities.argmax(axis=1) == truth, probabilities.max(axis=1)
    off = 0.0
    for low, high in pairwise(np.linspace(0, 1, RELIABILITY_BINS + 1)):
        here = (sure > low) & (sure <= high)
        if here.any():
            off += here.mean() * abs(happened[here].mean() - sure[here].mean())
    assert ours["ece"] == pytest.approx(off, abs=1e-9)


def check_points(points: list[dict[str, float]], happened: Any, probability: Any) -> None:
    for point in points:
        yes = probability >= point["threshold"]
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            happened, yes, average="binary", zero_division=0
        )
        assert point["precision"] == pytest.approx(precision)
        assert point["recall"] == pytest.approx(recall if happened.any() else 1.0)
        assert point["f1"] == pytest.approx(f1)
        assert point["flagged"] == pytest.approx(yes.mean())


@pytest.mark.filterwarnings("ignore")  # scikit-learn's, of classes that are missing
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_runs())
def test_every_number_follows_from_the_saved_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: tuple[dict[str, Examples], Oracle]
) -> None:
    monkeypatch.setitem(_doubts.__globals__, "_explained", lambda _, mistake: mistake)
    monkeypatch.setattr("lastblock.figures.draw", lambda *_: iter(()))
    parts, oracle = run
    names, temperature = oracle.class_names, oracle.decision.temperature
    classifier = classifier_of(oracle, len(parts["validation"]))
    encoded = _encode(classifier, parts)
    truth = {name: classifier.number(part.targets, part.texts) for name, part in parts.items()}
    facts, said = _scores(classifier, encoded, truth)
    facts |= {"before_training": _scores_before(classifier, encoded, truth)}
    facts |= _doubts(classifier, parts, truth, said)
    judged = [
        (parts[part], [part] * len(of), of, oracle.decision.chosen(of)) for part, of in said.items()
    ]
    _write_predictions(tmp_path / PREDICTIONS, "part", judged, names)
    write_report(tmp_path, {**made_up(names), **facts}, History())

    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    found = saved(tmp_path, names)
    prior = DummyClassifier(strategy="prior").fit(found["train"][0][:, None], found["train"][0])
    for part, (truth, predicted, probabilities) in found.items():
        check_scores(report["splits"][part], truth, predicted, probabilities)
        before = softmax(oracle.tables[0][oracle.encode(parts[part].texts)], axis=1)
        check_scores(report["before_training"][part], truth, before.argmax(axis=1), before)
        always = prior.predict_proba(truth[:, None])
        check_scores(report["majority"][part], truth, always.argmax(axis=1), always)
        # They follow from the saved ones, but for last digits, by which classes as probable as each
        # other would come apart, and what lies on an edge of two bins, as a half does, would move.
        uncalibrated = softmax(oracle.tables[1][oracle.encode(parts[part].texts)], axis=1)
        taken_back = softmax(np.log(probabilities) * temperature, axis=1)
        np.testing.assert_allclose(taken_back, uncalibrated, rtol=1e-9)
        of = report["calibration"]
        for when, p in (("before", uncalibrated), ("after", probabilities)):
            check_calibration(of["splits"][part][when], truth, p)
        bins = of["reliability"][part]["after"]
        happened, sure = truth == probabilities.argmax(axis=1), probabilities.max(axis=1)
        share, mean = calibration_curve(happened, sure, n_bins=RELIABILITY_BINS)
        assert [b["share"] for b in bins] == pytest.approx(list(share))
        assert [b["probability"] for b in bins] == pytest.approx(list(mean))
        for b in bins:
            interval = binomtest(round(b["share"] * b["n"]), b["n"]).proportion_ci(0.95, "wilson")
            assert b["share_ci95"] == pytest.approx(list(interval), abs=1e-12)

    truth, predicted, probabilities = found["test"]
    for i, name in enumerate(names):
        curve = report["curves"][name]
        average = metrics.average_precision_score(truth == i, probabilities[:, i])
        assert curve["average_precision"] == pytest.approx(average)
        check_points(curve["points"], truth == i, probabilities[:, i])
    happened, sure = truth == predicted, probabilities.max(axis=1)
    check_points(report["coverage"]["points"], happened, sure)
    listed = [mistake["probability"] for mistake in report["mistakes"]]
    assert listed == pytest.approx(sorted(sure[~happened], reverse=True)[: len(listed)])
    for mistake in report["mistakes"]:
        row = parts["test"].texts.index(mistake["text"])
        assert (mistake["true"], mistake["predicted"]) == (names[truth[row]], names[predicted[row]])


def test_of_a_real_run_too(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = messages(100)
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(map("{},{}\n".format, texts, labels)))
    result = finetune(
        RunConfig(
            data=DataConfig(data=str(data)),
            model=ModelConfig(model=str(pretrained), dtype="float32"),
            train=TrainConfig(epochs=1),
            output=str(tmp_path / "m"),
        )
    )
    assert result.folder is not None
    report = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    rows = json.loads((result.folder / "split.json").read_text(encoding="utf-8"))["rows"]
    numbers = np.array([label == "spam" for label in labels], np.int64)
    loaded = TextClassifier.load(result.folder)
    learnt = [texts[row] for row in rows["train"]], numbers[rows["train"]]
    baseline = fit_baseline(*learnt, 2, report["settings"]["seed"])
    for part, (truth, predicted, probabilities) in saved(result.folder, ["ham", "spam"]).items():
        of_part = [texts[row] for row in rows[part]]
        np.testing.assert_array_equal(truth, numbers[rows[part]])
        np.testing.assert_allclose(probabilities, loaded.predict_proba(of_part), atol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_scores(report["splits"][part], truth, predicted, probabilities)
            if part != "train":
                p = baseline.predict_proba(of_part)
                check_scores(report["baseline"][part], truth, p.argmax(axis=1), p)
