"""How many planted label errors `lastblock review` finds among the rows it doubts most.

One label in twenty is changed to another class's, at random. Of the first twentieth of the rows,
worst first, the share with a changed label is the precision; there are as many such rows as
changed labels, so it is the recall too. Errors that the data had before count against it.

Needs LASTBLOCK_DATA for TREC-6. The activations are kept on disk, so that a second run is fast.

    python benchmarks/review.py [--sets sms-spam trec6] [--rows N] [--seeds N ...] [--write FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np

from lastblock import TextClassifier
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.review import review

SHARE = 0.05


def load(name: str, rows: int | None) -> Examples:
    folder = os.environ.get("LASTBLOCK_DATA", "")
    examples = load_examples(name if name == "sms-spam" else f"{folder}/{name}/train.csv")
    if rows is not None and rows < len(examples):
        examples = examples.take(np.random.default_rng(0).permutation(len(examples))[:rows])
    return examples


def with_errors(examples: Examples, seed: int) -> tuple[Examples, set[int]]:
    """The examples, one label in twenty changed, and the rows (from 1) of the changed ones."""
    rng = np.random.default_rng(seed)
    changed = rng.choice(len(examples), round(SHARE * len(examples)), replace=False)
    labels, classes = list(examples.labels), sorted(set(examples.labels))
    for row in changed:
        labels[row] = rng.choice([c for c in classes if c != labels[row]]).item()
    return dataclasses.replace(examples, labels=labels), {int(row) + 1 for row in changed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["sms-spam", "trec6"])
    parser.add_argument(
        "--rows", type=int, help="rows of each set, drawn at random; all if not given"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--depth", type=int, help="blocks kept; the recipe's choice if not given")
    parser.add_argument("--train", default="blocks", help="what is trained: blocks, or head alone")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    figures = []
    for name in args.sets:
        for seed in args.seeds:
            examples, changed = with_errors(load(name, args.rows), seed)
            start = time.perf_counter()
            settings = {"depth": args.depth, "train": args.train}
            classifier = TextClassifier(**settings, random_state=seed)
            opinions = review(examples, classifier, seed=seed)
            first = [opinion.row in changed for opinion in opinions[: len(changed)]]
            doubtful = [opinion.row in changed for opinion in opinions if opinion.doubtful]
            figures.append(
                {
                    "set": name,
                    "rows": len(examples),
                    "seed": seed,
                    "changed": len(changed),
                    "precision": round(sum(first) / len(first), 4),
                    "doubtful": len(doubtful),
                    "recall_of_doubtful": round(sum(doubtful) / len(changed), 4),
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )
            print(", ".join(f"{key} {value}" for key, value in figures[-1].items()), flush=True)
    if args.write:
        args.write.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
