"""Cross-validation: each text judged once, by a classifier that has not seen it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import messages

from lastblock import TextClassifier
from lastblock.crossvalidation import out_of_fold
from lastblock.data.split import folds
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
    assert fits[1]["depth"] == 3


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
