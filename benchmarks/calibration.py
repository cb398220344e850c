"""Are the probabilities better for being calibrated? ECE, Brier score and loss, before and after.

    python benchmarks/calibration.py
    python benchmarks/calibration.py --sets sst2 --texts 1500 --seeds 1 2 3

Reads the sets from the folder in LASTBLOCK_DATA. Of the texts that a seed draws, an eighth are for
validation, and the others are learnt from; test texts are the same for all. Calibration divides the
logits by a temperature, so the predictions are the same; that they are is checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from accuracy import SETS, read
from common import write_results

from lastblock import TextClassifier
from lastblock.data.examples import Examples
from lastblock.decision import Decision
from lastblock.evaluation import calibration_scores

SCORES = ("ece", "brier", "loss")


def judge(drawn: Examples, test: Examples, seed: int, **settings: Any) -> dict[str, Any]:
    """The test texts' scores by the classifier that learns from ``drawn``, before and after."""
    held_out, learnt = np.split(np.arange(len(drawn)), [len(drawn) // 8])
    validation, train = drawn.take(held_out), drawn.take(learnt)
    classifier = TextClassifier(random_state=seed, **settings)
    classifier.fit(train.texts, train.labels, validation=(validation.texts, validation.labels))
    model, truth = classifier.model_, classifier.number(test.labels, test.texts)
    sequences = model.encode(test.texts)
    model.prepare(sequences)  # on disk, for other seeds at the same depth
    logits = model.logits(sequences)
    temperature = classifier.calibration_.temperature or 1.0
    said = {
        when: Decision(temperature=t).probabilities(logits)
        for when, t in (("before", 1.0), ("after", temperature))
    }
    predicted = {when: p.argmax(axis=1) for when, p in said.items()}
    assert (predicted["before"] == predicted["after"]).all()
    return {
        "seed": seed,
        "temperature": temperature,
        "accuracy": float((predicted["after"] == truth).mean()),
        **{when: calibration_scores(truth, p) for when, p in said.items()},
    }


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """A line of the table: means over the seeds, before and after."""
    cells = [f"{mean(run['accuracy'] for run in runs):.1%}"]
    for score in SCORES:
        before, after = (mean(run[when][score] for run in runs) for when in ("before", "after"))
        cells.append(f"{before:.4f} → {after:.4f}")
    temperatures = ", ".join(f"{run['temperature']:.2f}" for run in runs)
    return f"| {name} | {' | '.join(cells)} | {temperatures} |"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["trec6", "emotion", "sst2"])
    parser.add_argument("--texts", type=int, default=1_500, help="for training and validation")
    parser.add_argument("--test", type=int, default=1_000, help="test examples at most")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--depth", type=int, default=18, help="the same for all, to share passes")
    given = parser.parse_args()
    if "LASTBLOCK_DATA" not in os.environ:
        sys.exit("LASTBLOCK_DATA is not set: it names the folder with the sets")
    found = {}
    print(f"| set | accuracy, both | {' | '.join(SCORES)} | temperatures |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in given.sets:
        examples, test = read(Path(os.environ["LASTBLOCK_DATA"]), name, given.test)
        found[name] = []
        for seed in given.seeds:
            rows = np.random.default_rng(seed).permutation(len(examples))[: given.texts]
            found[name].append(judge(examples.take(rows), test, seed, depth=given.depth))
        print(row(name, found[name]), flush=True)
    write_results("calibration", {"options": vars(given), "runs": found})


if __name__ == "__main__":
    main()
