"""Is one saved model better than another? Both judged on the same labelled texts, in pairs.

Two models that read the same texts make many of the same mistakes, so their own intervals may
overlap although one is better. What tells is the texts that only one of them has right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lastblock.config import ReadOptions
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.errors import ConfigError, DataError
from lastblock.estimator import TextClassifier
from lastblock.judging import judge
from lastblock.runtime import Progress, Silent

DRAWS = 2_000

Numbers = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """How two models' predictions on the same ``n`` texts differ; all differences are b less a.

    ``p_value`` is McNemar's, exact: how often chance alone would have shared out the texts that
    only one has right at least as unevenly. ``accuracy_ci95`` and ``macro_f1_ci95`` hold 95 % of
    the differences that are found when the texts are drawn anew (bootstrap, percentiles).
    """

    n: int
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    p_value: float
    accuracy: float
    accuracy_ci95: Interval
    macro_f1: float
    macro_f1_ci95: Interval


def compare(truth: Numbers, a: Numbers, b: Numbers, n_classes: int, seed: int = 0) -> Difference:
    """Compare predictions ``a`` and ``b`` (n,) of the classes ``truth`` (n,).

    Raises:
        DataError: there are no texts.
    """
    if len(truth) == 0:
        raise DataError("there are no texts to compare the models on; give at least one")
    # Texts with the same class and the same two predictions are alike: what is drawn anew is how
    # many there are of each kind.
    kinds, counts = np.unique(np.stack([truth, a, b], axis=1), axis=0, return_counts=True)
    n = len(truth)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=DRAWS)
    accuracy, macro_f1 = _differences(kinds, counts[None], n_classes)
    accuracies, macro_f1s = _differences(kinds, drawn, n_classes)
    right_a, right_b = a == truth, b == truth
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Difference(
        n=n,
        both_right=int((right_a & right_b).sum()),
        only_a_right=only_a,
        only_b_right=only_b,
        both_wrong=int((~right_a & ~right_b).sum()),
        p_value=mcnemar(only_a, only_b),
        accuracy=float(accuracy[0]),
        accuracy_ci95=_middle_95(accuracies),
        macro_f1=float(macro_f1[0]),
        macro_f1_ci95=_middle_95(macro_f1s),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p value (McNemar 1947; by the binomial, as few texts ask for)."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(comb(n, i) for i in range(fewer + 1)) / 2**n)


def _differences(
    kinds: Numbers, counts: Numbers, k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Differences in accuracy and macro F1 (draws,) of kinds (kinds, 3), counted (draws, kinds)."""
    truth, *models = (np.eye(k)[column] for column in kinds.T)  # (kinds, k) each
    weights = counts.astype(np.float64)
    accuracies, f1s = [], []
    for said in models:
        right = weights @ (truth * said)  # (draws, k)
        below = weights @ (truth + said)
        f1s.append(np.divide(2 * right, below, out=np.zeros_like(right), where=below > 0).mean(1))
        accuracies.append(right.sum(1) / weights.sum(1))
    return accuracies[1] - accuracies[0], f1s[1] - f1s[0]


def _middle_95(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def compare_files(
    folder_a: str | Path,
    folder_b: str | Path,
    data: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Two saved models on one labelled file.

    Returns:
        "a" and "b": each model's scores, as ``judge`` gives them, and its "model";
        "difference": what ``Difference`` holds;
        "verdict": the same in a sentence;
        "disagreements": a dict a text that they label differently, those first where the surer
        one is wrong.

    Raises:
        ConfigError: a model gives a text several labels.
        SavedModelError: a model cannot be used.
        DataError: the file cannot be used, or has labels that a model does not know.
    """
    progress = progress or Silent()
    models = [TextClassifier.load(folder) for folder in (folder_a, folder_b)]
    for folder, model in zip((folder_a, folder_b), models, strict=True):
        if model.model_.decision.multilabel:
            raise ConfigError(
                f"{folder} gives a text several labels; compare is for models that give one: "
                "evaluate both on the same DATA"
            )
    examples = load_examples(
        data,
        text_column=text_column,
        label_column=label_column,
        options=options or ReadOptions(),
        progress=progress,
    )
    for note in examples.notes:
        progress.say(note)
    truths = [model.number(examples.labels, examples.texts) for model in models]
    said = [model.model_.predict_proba(examples.texts, progress) for model in models]
    names = [model.model_.class_names for model in models]
    known = sorted({*names[0], *names[1]})
    decisions = [model.model_.decision for model in models]
    given = [d.chosen(p).argmax(axis=1) for d, p in zip(decisions, said, strict=True)]
    truth, a, b = (
        _renumber(own, numbers, known)
        for own, numbers in zip([names[0], *names], [truths[0], *given], strict=True)
    )
    judged = zip((folder_a, folder_b), decisions, truths, said, names, strict=True)
    scores = [
        {"model": Path(folder).name, **judge(decision, each, p, own)}
        for folder, decision, each, p, own in judged
    ]
    rows = np.arange(len(truth))
    sureness = [p[rows, own] for p, own in zip(said, given, strict=True)]
    difference = compare(truth, a, b, len(known))
    return {
        "a": scores[0],
        "b": scores[1],
        "difference": asdict(difference),
        "verdict": verdict(difference),
        "disagreements": _disagreements(examples, known, truth, (a, b), sureness),
    }


def verdict(difference: Difference) -> str:
    """Which model is better, or that it cannot be told."""
    a, b = difference.only_a_right, difference.only_b_right
    if a + b == 0:
        return "Both have the same texts right: there is nothing to tell them apart by."
    told = f"a alone is right on {a:,}, b alone on {b:,} texts (p = {difference.p_value:.2g})"
    if difference.p_value >= 0.05:
        return f"No clear difference: {told}; chance may have done that."
    return f"{'b' if b > a else 'a'} is better: {told}."


def _renumber(own: Sequence[str], numbers: Numbers, known: Sequence[str]) -> Numbers:
    """Class numbers of one model as places in the names that either knows."""
    return np.array([known.index(name) for name in own], dtype=np.int64)[numbers]


def _disagreements(
    examples: Examples,
    known: Sequence[str],
    truth: Numbers,
    predicted: tuple[Numbers, Numbers],
    sureness: Sequence[npt.NDArray[np.float64]],
) -> list[dict[str, Any]]:
    (a, b), (sure_a, sure_b) = predicted, sureness
    # How sure the wrong one is; of two wrong ones, the surer.
    regret = np.maximum(np.where(a != truth, sure_a, 0), np.where(b != truth, sure_b, 0))
    rows = np.flatnonzero(a != b)
    return [
        {
            "row": int(i) + 1,
            "text": examples.texts[i],
            "label": known[truth[i]],
            "a": known[a[i]],
            "probability_a": float(sure_a[i]),
            "b": known[b[i]],
            "probability_b": float(sure_b[i]),
        }
        for i in rows[np.argsort(-regret[rows], kind="stable")]
    ]
