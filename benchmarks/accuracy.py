"""How right `auto` is beside TF-IDF and logistic regression, and the book's way of tuning.

    make accuracy                                    every set, 64 examples a class, three seeds
    python benchmarks/accuracy.py --sets trec6 --per-class 8 64 --seeds 1 2 3 --last-block

Reads the sets from the folder in LASTBLOCK_DATA. Training examples are drawn by the seed; test
examples are the same for all. Prints a table and writes results/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from lastblock import TextClassifier
from lastblock.baseline import fit_baseline
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples

RESULT = Path(__file__).with_name("results") / "accuracy.json"
# Training and test file of each set; of one without a test file a part is kept for it.
SETS = {
    "sms_spam": ("sms_spam/SMSSpamCollection", None),
    "trec6": ("trec6/train.csv", "trec6/test.csv"),
    "sst2": ("sst2/train.csv", "sst2/test.csv"),
    "emotion": ("tweeteval_emotion/train.csv", "tweeteval_emotion/test.csv"),
    "bbc_news": ("bbc_news/all.csv", None),
    "imdb": ("imdb_10k/train.csv", "imdb_10k/test.csv"),
}


def read(folder: Path, name: str, most_test: int) -> tuple[Examples, Examples]:
    """Training examples, and at most so many to test on; no text twice."""
    train_file, test_file = SETS[name]
    train = distinct(load_examples(str(folder / train_file)))
    test = distinct(load_examples(str(folder / test_file))) if test_file else train
    rows = np.random.default_rng(0).permutation(len(test))
    kept = test.take(rows[:most_test])
    return (train if test_file else train.take(rows[most_test:])), kept


def distinct(examples: Examples) -> Examples:
    first = {text: row for row, text in reversed(list(enumerate(examples.texts)))}
    return examples.take(np.array(sorted(first.values())))


def draw(examples: Examples, per_class: int, seed: int) -> Examples:
    taken: Counter[object] = Counter()
    rows = []
    for row in np.random.default_rng(seed).permutation(len(examples)):
        label = examples.labels[row]
        if taken[label] < per_class:
            taken[label] += 1
            rows.append(row)
    return examples.take(np.array(rows))


def tfidf(train: Examples, test: Examples, seed: int) -> float:
    classes, numbers = np.unique(np.asarray(train.labels), return_inverse=True)
    baseline = fit_baseline(train.texts, numbers, len(classes), seed)
    said = classes[baseline.predict_proba(test.texts).argmax(1)]
    return float(np.mean(said == np.asarray(test.labels)))


def tuned(train: Examples, test: Examples, **settings: object) -> float:
    classifier = TextClassifier(**settings).fit(train.texts, train.labels)  # type: ignore[arg-type]
    return float(classifier.score(test.texts, test.labels))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--per-class", nargs="+", type=int, default=[64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--test", type=int, default=500, help="test examples at most")
    parser.add_argument(
        "--last-block", action="store_true", help="the book's way as well: the last block tuned"
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[], help="cut here as well")
    given = parser.parse_args()
    if "LASTBLOCK_DATA" not in os.environ:
        sys.exit("LASTBLOCK_DATA is not set: it names the folder with the sets")
    folder = Path(os.environ["LASTBLOCK_DATA"])
    rows = []
    print(f"{'set':<10}{'a class':>8}  {'way':<12}{'mean':>7}{'spread':>8}{'seconds':>9}")
    for name in given.sets:
        train, test = read(folder, name, given.test)
        for per_class in given.per_class:
            ways = {
                "auto": lambda few, seed, test=test: tuned(few, test, random_state=seed),
                "TF-IDF + LR": lambda few, seed, test=test: tfidf(few, test, seed),
            }
            if given.last_block:
                ways["last block"] = lambda few, seed, test=test: tuned(
                    few, test, random_state=seed, recipe="chapter6", pooling="last"
                )
            for depth in given.depths:
                ways[f"depth {depth}"] = lambda few, seed, test=test, depth=depth: tuned(
                    few, test, random_state=seed, depth=depth
                )
            for way, measure in ways.items():
                start = time.perf_counter()
                scores = [measure(draw(train, per_class, seed), seed) for seed in given.seeds]
                seconds = (time.perf_counter() - start) / len(scores)
                spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
                mean = statistics.mean(scores)
                print(
                    f"{name:<10}{per_class:>8}  {way:<12}{mean:>7.3f}{spread:>8.3f}{seconds:>9.1f}",
                    flush=True,
                )
                rows.append(
                    {
                        "set": name,
                        "per_class": per_class,
                        "way": way,
                        "test": len(test),
                        "scores": scores,
                        "seconds": seconds,
                    }
                )
    RESULT.parent.mkdir(exist_ok=True)
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    temporary.replace(RESULT)


if __name__ == "__main__":
    main()
