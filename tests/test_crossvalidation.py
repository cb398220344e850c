"""Cross-validation: each text judged once, by a classifier that has not seen it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from tiny import messages

from lastblock import TextClassifier
from lastblock.crossvalidation import out_of_fold, repeat, spread
from lastblock.data.split import folds
from lastblock.decoder.decoder import Decoder
from lastblock.errors import ConfigError


def tiny(pretrained: Path, **kwargs: Any) -> TextClassifier:
    return TextClassifier(str(pretrained), dtype="float32", **{"epochs": 2, **kwargs})


def test_each_text_is_judged_by_a_classifier_of_the_other_folds(pretrained: Path) -> None:
    texts, labels = messages(40)
    classifier = tiny(pretrained)
    found = out_of_fold(classifier, texts, labels, folds=4, seed=3)
    assert found.classes.tolist() == ["ham", "spam"]
    assert not hasattr(classifier, "model_")
    for i, (train, test) in enumerate(folds(texts, labels, k=4, seed=3)):
        assert (found.fold[test] == i).all()
        alone = tiny(pretrained).fit([texts[r] for r in train], [labels[r] for r in train])
        expected = alone.predict_proba([texts[r] for r in test])
        np.testing.assert_allclose(found.probabilities[test], expected, atol=1e-5)


def test_what_the_recipe_chose_is_chosen_once(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = messages(30)
    fits: list[dict[str, Any]] = []
    fit = TextClassifier.fit

    def spy(self: TextClassifier, *args: Any, **kwargs: Any) -> TextClassifier:
        fits.append(self.get_params())
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(TextClassifier, "fit", spy)
    out_of_fold(tiny(pretrained, epochs=1), texts, labels, folds=3)
    assert fits[0]["depth"] is None
    assert fits[1] == fits[2]
    assert fits[1]["depth"] == 4


def test_a_class_that_is_absent_from_training_has_no_probability(pretrained: Path) -> None:
    texts, labels = messages(12)
    found = out_of_fold(
        tiny(pretrained, epochs=1), [*texts, "odd one"], [*labels, "a rarity"], folds=3
    )
    assert found.classes.tolist() == ["a rarity", "ham", "spam"]
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert found.probabilities[-1, 0] == 0
    assert (found.probabilities[found.fold != found.fold[-1], 0] > 0).all()


def test_labels_may_be_numbers_and_groups_stay_together(pretrained: Path) -> None:
    texts, labels = messages(24)
    authors = [i // 4 for i in range(24)]
    found = out_of_fold(
        tiny(pretrained, epochs=1),
        texts,
        [int(label == "spam") for label in labels],
        folds=3,
        groups=[authors],
    )
    assert found.classes.tolist() == [0, 1]
    for author in range(6):
        assert len(set(found.fold[author * 4 : author * 4 + 4])) == 1


def test_more_folds_than_texts_are_refused(pretrained: Path) -> None:
    with pytest.raises(ConfigError, match="9 folds of 4 different texts"):
        out_of_fold(tiny(pretrained), *messages(4), folds=9)


# ------------------------------------------------------------------ one frozen pass for all


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    """Counts texts that went up through the decoder, from an empty cache on."""
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path / "cache"))
    counted = {"texts": 0}
    climb = Decoder.climb

    def spy(self: Decoder, ids: Any, lengths: Any) -> Any:
        counted["texts"] += len(ids)
        return climb(self, ids, lengths)

    monkeypatch.setattr(Decoder, "climb", spy)
    return counted


def test_all_folds_share_one_frozen_pass(pretrained: Path, passes: dict[str, int]) -> None:
    texts, labels = messages(100)
    classifier = tiny(pretrained, cache_size=1)
    out_of_fold(classifier, texts, labels, folds=5)
    assert passes["texts"] == 100
    # Another fold's depth is chosen from other texts: those that were not probed yet are now.
    again = classifier.set_params(epochs=3)
    out_of_fold(again, texts, labels, folds=4)
    assert passes["texts"] <= 120
    probed = passes["texts"]
    out_of_fold(again.set_params(learning_rate=1e-4), texts, labels, folds=4)
    assert passes["texts"] == probed


def test_grid_search_shares_one_frozen_pass_a_depth(
    pretrained: Path, passes: dict[str, int]
) -> None:
    texts, labels = messages(60)
    grid = {"learning_rate": [1e-3, 1e-2], "epochs": [1, 2], "depth": [2, 3]}
    classifier = tiny(pretrained, cache_size=1)
    GridSearchCV(classifier, grid, cv=3, scoring="neg_log_loss").fit(texts, labels)
    # A depth's first fold is judged on texts that no fit has seen yet: they are run twice.
    first = 2 * (60 + 20)
    assert passes["texts"] == first
    cross_val_predict(classifier.set_params(depth=2), texts, labels, cv=2)
    assert passes["texts"] == first


# ------------------------------------------------------------------ scores and their spread


def test_each_fold_is_scored_as_scikit_learn_scores_it(pretrained: Path) -> None:
    texts, labels = messages(40)
    found = out_of_fold(tiny(pretrained), texts, labels, folds=4)
    scores = found.scores
    assert [run["n"] for run in scores] == [10, 10, 10, 10]
    for i, run in enumerate(scores):
        truth = [label for label, fold in zip(labels, found.fold, strict=True) if fold == i]
        said = found.probabilities[found.fold == i]
        predicted = found.classes[said.argmax(axis=1)]
        assert run["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        assert run["loss"] == pytest.approx(log_loss(truth, said, labels=["ham", "spam"]))


def test_the_spread_is_student_s() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.02, 6)
    found = spread([{"accuracy": value, "n": 3, "confusion": []} for value in values.tolist()])
    assert list(found) == ["accuracy"]
    of = found["accuracy"]
    assert of["mean"] == pytest.approx(values.mean())
    assert of["sd"] == pytest.approx(values.std(ddof=1))
    expected = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    np.testing.assert_allclose(of["ci95"], expected)
    assert of["values"] == values.tolist()
    wider = spread([{"accuracy": value} for value in values.tolist()], test_share=0.25)
    low, high = wider["accuracy"]["ci95"]
    ratio = (high - low) / (of["ci95"][1] - of["ci95"][0])
    assert ratio == pytest.approx(np.sqrt((1 / 6 + 0.25) / (1 / 6)))


def test_an_interval_ends_where_a_score_does() -> None:
    runs = [{"accuracy": 0.99, "mcc": -0.9, "loss": 0.1}, {"accuracy": 0.8, "mcc": 0, "loss": 9.0}]
    found = spread([{k: float(v) for k, v in run.items()} for run in runs])
    assert found["accuracy"]["ci95"] == [0.0, 1.0]
    assert found["mcc"]["ci95"] == [-1.0, 1.0]
    assert found["loss"]["ci95"][0] == 0.0
    assert found["loss"]["ci95"][1] > 9.0


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    # Folds learn from the same texts: what these make of a score is common to all of them.
    for share in (0.0, 1 / 4):
        common, own = 0.05 * np.sqrt([share / (1 + share), 1 / (1 + share)])
        covered = 0
        for _ in range(1000):
            values = rng.normal(0.5, common) + rng.normal(0, own, 5)
            runs = [{"accuracy": value} for value in values.tolist()]
            low, high = spread(runs, test_share=share)["accuracy"]["ci95"]
            covered += low <= 0.5 <= high
        assert 930 <= covered <= 970


def test_repeated_seeds_are_fits_with_these_seeds(pretrained: Path) -> None:
    texts, labels = messages(30)
    test = messages(20, seed=1)
    fitted = tiny(pretrained, random_state=5).fit(texts, labels)
    scores = list(repeat(fitted, (texts, labels), test, seeds=[5, 6]))
    assert scores[0]["accuracy"] == fitted.score(*test)
    alone = tiny(pretrained, random_state=6).fit(texts, labels)
    expected = log_loss(test[1], alone.predict_proba(test[0]))
    assert scores[1]["loss"] == pytest.approx(expected)
    assert scores[0]["loss"] != scores[1]["loss"]
