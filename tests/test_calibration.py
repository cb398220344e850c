"""Temperature scaling against scipy and known truths; what a fit does with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import dirichlet, norm
from tiny import messages

from lastblock import TextClassifier
from lastblock.calibration import (
    CALIBRATE_FROM,
    HIGHEST,
    LOWEST,
    SPREAD,
    fit_temperature,
)
from lastblock.decision import Decision
from lastblock.evaluation import calibration_scores


def drawn(n: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated, since labels are drawn from their softmax."""
    logits = np.log(dirichlet.rvs(np.full(k, 0.4), size=n, random_state=rng).clip(1e-12))
    labels = np.array([rng.choice(k, p=p) for p in softmax(logits, axis=1)])
    return logits, labels


@pytest.mark.parametrize("k", [2, 5, 20])
@pytest.mark.parametrize("wrong_by", [0.4, 1.0, 2.5])
def test_finds_the_temperature_that_was_hidden(k: int, wrong_by: float) -> None:
    logits, labels = drawn(4000, k, np.random.default_rng(k))
    assert fit_temperature(logits * wrong_by, labels) == pytest.approx(wrong_by, rel=0.08)


def test_for_labels_too() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(-1, 2, size=(3000, 4))
    truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    assert fit_temperature(logits * 3, truth) == pytest.approx(3, rel=0.08)


def test_it_is_the_most_probable_temperature() -> None:
    logits, labels = drawn(80, 3, np.random.default_rng(2))

    def log_posterior(temperature: float) -> float:
        likelihood = log_softmax(logits / temperature, axis=1)[np.arange(80), labels]
        return likelihood.sum() + norm.logpdf(np.log(temperature), scale=SPREAD)

    grid = np.geomspace(0.2, 5, 4001)
    best = grid[np.argmax([log_posterior(t) for t in grid])]
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=1e-3)


def test_where_none_was_wrong_certainty_is_not_claimed() -> None:
    for n in (50, 500):
        logits = np.column_stack([np.full(n, 4.0), np.zeros(n)])
        temperature = fit_temperature(logits, np.zeros(n, dtype=np.int64))
        sure = Decision(temperature=temperature).probabilities(logits)[0, 0]
        assert 0.98 < sure < 1 - 1 / (4 * n)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 60))
def test_no_prediction_changes_and_nothing_overflows(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * rng.choice([0.01, 1, 300])
    temperature = fit_temperature(logits, rng.integers(0, k, n))
    assert LOWEST <= temperature <= HIGHEST
    probabilities = Decision(temperature=temperature).probabilities(logits)
    np.testing.assert_allclose(probabilities, softmax(logits / temperature, axis=1), atol=1e-12)
    best = np.take_along_axis(probabilities, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert (best == probabilities.max(axis=1)).all()


def test_ece_and_loss_fall_on_texts_it_was_not_fitted_on() -> None:
    rng = np.random.default_rng(3)
    logits, labels = drawn(3000, 4, rng)
    sure = logits * 3
    temperature = fit_temperature(sure[:300], labels[:300])
    ways = [Decision(temperature=t).probabilities(sure[300:]) for t in (1.0, temperature)]
    before, after = (calibration_scores(labels[300:], p) for p in ways)
    assert after["ece"] < before["ece"] / 2
    assert after["brier"] < before["brier"]
    assert after["loss"] < before["loss"]


def fitted(pretrained: Path, validation: int, **kwargs: object) -> TextClassifier:
    given = {"epochs": 2, **kwargs}
    return TextClassifier(str(pretrained), dtype="float32", **given).fit(
        *messages(40), validation=messages(validation, seed=1)
    )


def test_a_fit_calibrates_and_predicts_the_same(pretrained: Path, tmp_path: Path) -> None:
    texts, _ = messages(30, seed=2)
    plain, calibrated = (fitted(pretrained, 60, calibrate=c) for c in (False, None))
    temperature = calibrated.calibration_.temperature
    assert calibrated.calibration_.applied
    assert calibrated.calibration_.texts == 60
    assert calibrated.model_.decision.temperature == temperature != 1
    assert plain.calibration_.temperature == temperature
    assert not plain.calibration_.applied
    assert plain.model_.decision.temperature == 1
    said = plain.predict_proba(texts), calibrated.predict_proba(texts)
    np.testing.assert_allclose(said[1], softmax(np.log(said[0]) / temperature, axis=1), atol=1e-9)
    assert (plain.predict(texts) == calibrated.predict(texts)).all()
    calibrated.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(texts), said[1])
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["decision"]["temperature"] == temperature


def test_few_validation_texts_fit_no_temperature(pretrained: Path) -> None:
    few = fitted(pretrained, CALIBRATE_FROM - 2)
    assert few.calibration_.temperature is None
    assert few.model_.decision.temperature == 1


def test_the_book_s_recipe_says_what_it_would_be_and_leaves_it(pretrained: Path) -> None:
    book = fitted(pretrained, 60, recipe="chapter6")
    assert book.calibration_.temperature is not None
    assert book.model_.decision.temperature == 1
