"""Judge what a decision makes of probabilities, in the form that report.json has.

Knows arrays and class names; no model and no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lastblock.calibration import Calibration
from lastblock.decision import Decision
from lastblock.evaluation import (
    calibration_scores,
    curves,
    evaluate,
    evaluate_labels,
    events,
    reliability,
    wilson_interval,
)
from lastblock.targets import Numbers

MOST_MISTAKES = 20

Probabilities = npt.NDArray[np.float64]
Events = npt.NDArray[np.bool_]


def judge(
    decision: Decision, truth: Numbers, probabilities: Probabilities, names: Sequence[str]
) -> dict[str, Any]:
    """Scores of the labels that a decision gives; see ``judge_given``."""
    unsure = None if decision.abstain_below is None else decision.unsure(probabilities)
    return judge_given(truth, probabilities, names, decision.chosen(probabilities), unsure)


def judge_given(
    truth: Numbers,
    probabilities: Probabilities,
    names: Sequence[str],
    chosen: Events,
    unsure: Events | None = None,
) -> dict[str, Any]:
    """Scores of labels ``chosen`` (n, k); where some texts are ``unsure`` (n,), of the others too.

    As ``evaluation`` has them, of class numbers (n,) or of several labels a text (n, k); "answered"
    has the number and share of the texts that are not left open, and the accuracy on them.
    """
    if truth.ndim == 2:
        scores = evaluate_labels(truth.astype(np.bool_), probabilities, names, chosen).to_dict()
        right = (truth == chosen).all(axis=1)
    else:
        predicted = chosen.argmax(axis=1)
        scores = evaluate(truth, probabilities, names, predicted).to_dict()
        right = predicted == truth
    if unsure is not None:
        answered = right[~unsure]
        n, correct = len(answered), int(answered.sum())
        scores["answered"] = {
            "n": n,
            "share": n / len(right),
            "accuracy": correct / n if n else None,
            "accuracy_ci95": list(wilson_interval(correct, n)) if n else None,
        }
    return scores


def judge_calibration(
    decision: Decision,
    found: Calibration,
    truth: Mapping[str, Numbers],
    logits: Mapping[str, Probabilities],
) -> dict[str, Any]:
    """The temperature that was found, and what it does to the probabilities of each part."""
    report: dict[str, Any] = {**vars(found), "splits": {}, "reliability": {}}
    for part, labels in truth.items():
        temperatures = {"before": 1.0, "after": found.temperature or 1.0}
        said = {
            when: replace(decision, temperature=temperature).probabilities(logits[part])
            for when, temperature in temperatures.items()
        }
        report["splits"][part] = {when: calibration_scores(labels, p) for when, p in said.items()}
        report["reliability"][part] = {
            when: reliability(*events(labels, p)) for when, p in said.items()
        }
    return report


def draw_curves(
    truth: Numbers, probabilities: Probabilities, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The operating points of each label, against all others."""
    return curves(_has(truth, len(names)), probabilities, names)


def surest_mistakes(
    decision: Decision,
    texts: Sequence[str],
    truth: Numbers,
    probabilities: Probabilities,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """The texts it is surest and wrong about, surest first: "probability" is that of its answer.

    Of several labels the surest wrong answer counts: that the text has "label", where it is
    "given", or has it not.
    """
    has, chosen = _has(truth, len(names)), decision.chosen(probabilities)
    sureness = np.where(chosen, probabilities, 1 - probabilities)
    asked = has != chosen if decision.multilabel else (has != chosen) & chosen
    wrongly_sure = np.where(asked, sureness, -1.0)
    label, surest = wrongly_sure.argmax(axis=1), wrongly_sure.max(axis=1)
    rows = np.argsort(-surest, kind="stable")[:MOST_MISTAKES]
    return [
        {
            "text": texts[i],
            "true": _listed(names, has[i]),
            "predicted": _listed(names, chosen[i]),
            "probability": float(surest[i]),
            **(
                {"label": names[label[i]], "given": bool(chosen[i, label[i]])}
                if decision.multilabel
                else {}
            ),
        }
        for i in rows
        if surest[i] >= 0
    ]


def _has(truth: Numbers, k: int) -> Events:
    """Whether each text has each of k labels, (n, k)."""
    return truth.astype(np.bool_) if truth.ndim == 2 else truth[:, None] == np.arange(k)


def _listed(names: Sequence[str], has: Events) -> str:
    return ", ".join(name for name, given in zip(names, has, strict=True) if given) or "(none)"
