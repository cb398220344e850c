"""Cross-validation and repeated seeds: how far scores can be trusted.

Works with texts and labels in memory. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from lastblock.data.examples import Label, LabelSet, Rows
from lastblock.data.split import folds as draw_folds
from lastblock.estimator import TextClassifier
from lastblock.judging import judge, judge_given
from lastblock.runtime import Progress, Silent, TasksOnly
from lastblock.targets import read_targets

# Where scores lie that do not lie from 0 to 1.
BOUNDS = {"mcc": (-1.0, 1.0), "loss": (0.0, math.inf), "brier": (0.0, 2.0)}

_Part = tuple[Sequence[str], Sequence[Any]]  # texts and their labels


@dataclass(frozen=True)
class OutOfFold:
    """What was said of each text by the one classifier that had not learnt from it.

    ``probabilities`` (n, n_classes), float64, columns in the order of ``classes`` (n_classes,);
    0 for a class of which the classifier saw no text. ``chosen`` (n, n_classes), bool: the labels
    that it gave. ``fold`` (n,), int64, counts from 0; ``scores`` has those of each, as ``judge``
    gives them.
    """

    probabilities: npt.NDArray[np.float64]
    chosen: npt.NDArray[np.bool_]
    fold: Rows
    classes: npt.NDArray[Any]
    scores: list[dict[str, Any]]

    @property
    def class_names(self) -> list[str]:
        """The classes as strings."""
        return [str(name) for name in self.classes.tolist()]


def out_of_fold(
    classifier: TextClassifier,
    texts: Sequence[str],
    labels: Sequence[Label] | Sequence[LabelSet],
    *,
    folds: int = 5,
    seed: int = 123,
    groups: Sequence[Sequence[Hashable]] = (),
    after_fold: Callable[[int, dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
) -> OutOfFold:
    """Fit a clone of ``classifier`` for each fold, on all other folds.

    Folds are those of ``data.split.folds``: stratified, with equal texts in one fold, and so rows
    with equal values in one of ``groups`` (each has a value for each row).

    What the recipe chooses is chosen once, by the first fold's fit from its own training texts,
    and kept for the others: so all are judged with the same settings.

    ``after_fold`` is called with each fold's number and scores; what it raises ends the rest.

    Raises:
        ConfigError: a setting does not fit, or there are fewer different texts than folds.
        DataError: texts or labels cannot be used.
    """
    progress = progress or Silent()
    quiet = TasksOnly(progress)
    targets = read_targets(labels)
    classes = targets.classes
    truth, names = targets.numbers(classes.tolist()), [str(name) for name in classes.tolist()]
    probabilities = np.zeros((len(texts), len(classes)))
    chosen = np.zeros(probabilities.shape, np.bool_)
    fold = np.zeros(len(texts), np.int64)
    scores = []
    for i, (train, test) in enumerate(draw_folds(texts, labels, k=folds, seed=seed, groups=groups)):
        progress.say(f"fold {i + 1} of {folds}: {len(train):,} texts to learn from")
        fitted = clone(classifier).fit(
            [texts[row] for row in train], [targets.labels[row] for row in train], progress=quiet
        )
        held_out = [texts[row] for row in test]
        # Kept, so that the next folds, which learn from these texts, find their activations.
        model = fitted.model_
        model.store.fill(model.classifier, model.encode(held_out), quiet)
        known = np.ix_(test, np.searchsorted(classes, fitted.classes_))
        said, decision = fitted.predict_proba(held_out), model.decision
        probabilities[known], chosen[known] = said, decision.chosen(said)
        fold[test] = i
        unsure = None if decision.abstain_below is None else decision.unsure(said)
        given = truth[test], probabilities[test], names, chosen[test]
        scores.append(judge_given(*given, unsure))
        if after_fold is not None:
            after_fold(i, scores[-1])
        if i == 0:
            classifier = clone(classifier).set_params(**fitted.resolved_params())
    return OutOfFold(probabilities, chosen, fold, classes, scores)


def repeat(
    classifier: TextClassifier,
    train: _Part,
    judge_on: _Part,
    *,
    seeds: Sequence[int],
    validation: _Part | None = None,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Scores on ``judge_on`` (texts, labels) of a clone of ``classifier`` fitted with each seed.

    The seed decides on the new head's first weights, the batches, and, without ``validation``, on
    the texts held out; what the recipe chose for ``classifier``, which is fitted, stays.
    """
    progress = progress or Silent()
    chosen = classifier.resolved_params()
    for i, seed in enumerate(seeds):
        progress.say(f"seed {seed}, {i + 1} of {len(seeds)}")
        again = clone(classifier).set_params(**chosen | {"random_state": seed})
        again.fit(*train, validation=validation, progress=TasksOnly(progress))
        model, (on, labels) = again.model_, judge_on
        truth = again.number(labels, on)
        yield judge(model.decision, truth, again.predict_proba(on), model.class_names)


def spread(scores: Sequence[Mapping[str, Any]], *, test_share: float = 0.0) -> dict[str, Any]:
    """Mean, sd and 95 % interval of the mean of every number that repeated runs were scored by.

    Args:
        scores: of each run, as ``judge`` has them; two runs or more.
        test_share: texts a run is tested on over those it learns from, where runs learn from
            almost the same texts (folds): so far their scores are not independent, and the
            interval is widened by it (Nadeau & Bengio, "Inference for the generalization error",
            Machine Learning, 2003). 0 where runs differ by their seed alone.

    Returns:
        By name: mean, sd (of n - 1), ci95 (Student's t) and values.
    """
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    n = len(scores)
    reach = float(stdtrit(n - 1, 0.975)) * math.sqrt(1 / n + test_share)
    found = {}
    for name in (name for name, value in scores[0].items() if isinstance(value, float)):
        values = [float(run[name]) for run in scores]
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
        # What no score can be is no part of the interval.
        least, most = BOUNDS.get(name, (0.0, 1.0))
        ci95 = [max(least, mean - reach * sd), min(most, mean + reach * sd)]
        found[name] = {"mean": mean, "sd": sd, "ci95": ci95, "values": values}
    return found
