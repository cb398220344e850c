"""Made-up reports, as ``finetune`` hands them to ``write_report``, with any number of classes."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np

from lastblock.evaluation import (
    History,
    calibration_scores,
    curves,
    evaluate,
    most_probable,
    operating_points,
    reliability,
)

SETTINGS = {
    "recipe": "auto",
    "model": "smollm2-135m-instruct",
    "depth": 20,
    "trainable_blocks": 1,
    "max_length": 512,
    "learning_rate": 1e-3,
    "keep_best": True,
    "eval_steps": 60,
    "eval_texts": 128,
}
SIZES = {"train": 140, "validation": 20, "test": 40}


def probabilities(names, n, seed, sharpness=2.0):
    """Class numbers (n,) and probabilities (n, k) that are the better the sharper."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(names), size=n)
    logits = rng.normal(size=(n, len(names)))
    logits[np.arange(n), labels] += sharpness
    odds = np.exp(logits)
    return labels, odds / odds.sum(axis=1, keepdims=True)


def scores(names, n, seed, sharpness=2.0):
    return evaluate(*probabilities(names, n, seed, sharpness), names).to_dict()


def report(names=("ham", "spam"), sizes=SIZES, **more) -> dict[str, Any]:
    """The facts that every run has."""
    names = list(names)
    return {
        "seconds": {"weights": 0.3, "train": 2.0, "total": 2.4},
        "data": {
            "source": "/home/someone/secret/messages.csv",
            "rows": 200,
            "classes": {name: 10 for name in names},
            "duplicates": 7,
            "conflicting": 2,
            "test_texts_in_train": 3,
            "notes": ["Two rows were skipped."],
        },
        "settings": SETTINGS,
        "splits": {part: scores(names, n, n) for part, n in sizes.items()},
        "before_training": {p: scores(names, n, 1, 0.0) for p, n in sizes.items()},
        "baseline": {p: scores(names, n, 2) for p, n in sizes.items() if p != "train"},
        "tokens": 12_345,
        **more,
    }


def full_report(names=("ham", "spam"), n=400, sharpness=4.0) -> dict[str, Any]:
    """The facts of a run that had everything."""
    names = list(names)
    sizes = {"train": 4 * n, "validation": n // 2, "test": n}
    labels, said = probabilities(names, n, 7, sharpness)
    softer = np.sqrt(said) / np.sqrt(said).sum(axis=1, keepdims=True)
    truth = labels[:, None] == np.arange(len(names))
    text = "Sunshine Hols. To claim ur med holiday send a stamped envelope to Drinks on Us UK"
    words = [(0, 8, 0.2), (9, 14, -0.1), (15, 17, 0.02), (18, 23, 1.9), (24, 26, 0.3)]
    mistake = {"text": text, "true": names[0], "predicted": names[-1], "probability": 0.984}
    explained = {
        **mistake,
        "words": [{"start": a, "end": b, "contribution": c} for a, b, c in words],
    }
    made = report(
        names,
        sizes,
        split={"how": "At random, each part with its share of every class.", "seed": 123},
        choice={
            "depths": [2, 5, 8, 11, 14, 17, 20, 25, 30],
            "accuracy": [0.71, 0.8, 0.86, 0.9, 0.93, 0.945, 0.95, 0.94, 0.91],
            "chosen": {"depth": 20, "pooling": "last"},
            "reason": "Of the depths probed, 20 of 30 blocks told the classes apart best.",
        },
        calibration={
            "temperature": 1.42,
            "texts": n // 2,
            "applied": True,
            "splits": {
                "test": {
                    "before": calibration_scores(labels, said),
                    "after": calibration_scores(labels, softer),
                }
            },
            "reliability": {
                "test": {
                    "before": reliability(*most_probable(labels, said)),
                    "after": reliability(*most_probable(labels, softer)),
                }
            },
        },
        curves=curves(truth, said, names),
        coverage={"points": operating_points(*most_probable(labels, said)).to_list(100)},
        mistakes=[explained, mistake, {**mistake, "text": "ok lar <b>\nsee you " * 40}],
        suspects=[{"part": "train", **mistake}],
    )
    made["splits"]["test"] = evaluate(labels, said, names).to_dict()
    made["baseline"]["test"] = scores(names, n, 7, sharpness / 1.5)
    made["data"]["classes"] = {name: int(4 * n / (i + 1)) + 3 for i, name in enumerate(names)}
    made["data"]["rows"] = sum(made["data"]["classes"].values())
    made["data"]["findings"] = [
        {
            "kind": "duplicates",
            "level": "warning",
            "count": 7,
            "message": "7 rows repeat the text of an earlier row",
            "rows": [3, 9],
            "examples": ["Sorry, I'll call later"],
        },
        {
            "kind": "imbalance",
            "level": "note",
            "count": 9,
            "message": "classes differ much in size",
            "rows": [],
            "examples": [],
        },
    ]
    made["seconds"] = {
        "weights": 0.3,
        "tokenize": 0.2,
        "activations": 31.2,
        "train": 12.0,
        "evaluate": 2.2,
        "total": 46.1,
    }
    made["tokens"] = 61_231
    return made


def history(validation=True, epochs=2) -> History:
    """Losses that fall and accuracies that rise."""
    made = History()
    for i in range(3 * epochs):
        loss = {"step": i, "examples_seen": 16 * (i + 1), "train_loss": 1 / (i + 1)}
        made.losses.append({**loss, "validation_loss": 1.1 / (i + 1) if validation else None})
    for i in range(epochs):
        accuracy = {"epoch": i + 1, "step": 3 * (i + 1), "examples_seen": 48 * (i + 1)}
        known = 0.8 + i / (5 * epochs) if validation else None
        made.accuracies.append({**accuracy, "train_accuracy": 0.9, "validation_accuracy": known})
    return made


def check_schema(path: Path, root: Path) -> None:
    """Whether a report.json is as docs/report.schema.json says, and has nothing besides."""
    schema = json.loads((root / "docs" / "report.schema.json").read_text("utf-8"))
    found = json.loads(path.read_text("utf-8"))
    errors = jsonschema_rs.validator_for(schema).iter_errors(found)
    assert [error.message for error in errors] == []
    assert set(found) <= set(schema["properties"])
