"""How right `auto` is beside what people would use instead, by set and by number of examples.

    make accuracy                                    64 examples a class, the quick ways
    make accuracy-all                                every size and way, for a day or so
    python benchmarks/accuracy.py --sets trec6 --per-class 8 64 --total 2000 --ways auto setfit

Reads the sets from the folder in LASTBLOCK_DATA; one that is not among ours by name is a folder
there with train.csv and test.csv (``debian_sets.py`` and ``intent_sets.py`` make some, in German,
French and English).
Training examples are drawn by the seed; test examples are the same for all. The score is the
share right; where a text may have several labels, micro F1, and "examples a class" are those that
have it. Prints a line a way and a table at the end; writes every score to results/accuracy.json,
where runs with other sets, numbers or ways stay.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rivals

from lastblock import TextClassifier
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples

RESULT = Path(__file__).with_name("results") / "accuracy.json"
# Training and test file of each set; of one without a test file a part is kept for it.
SETS = {
    "sms_spam": ("sms_spam/SMSSpamCollection", None),
    "trec6": ("trec6/train.csv", "trec6/test.csv"),
    "sst2": ("sst2/train.csv", "sst2/test.csv"),
    "goemotions": ("goemotions/train.csv", "goemotions/test.csv"),
    "emotion": ("tweeteval_emotion/train.csv", "tweeteval_emotion/test.csv"),
    "bbc_news": ("bbc_news/all.csv", None),
    "imdb": ("imdb_10k/train.csv", "imdb_10k/test.csv"),
}


def read(folder: Path, name: str, most_test: int) -> tuple[Examples, Examples]:
    """Training examples, and at most so many to test on; no text twice, also not across."""
    train_file, test_file = SETS.get(name, (f"{name}/train.csv", f"{name}/test.csv"))
    train = distinct(load_examples(str(folder / train_file)))
    test = distinct(load_examples(str(folder / test_file))) if test_file else train
    kept = test.take(np.random.default_rng(0).permutation(len(test))[:most_test])
    tested = set(kept.texts)
    return train.take([i for i, text in enumerate(train.texts) if text not in tested]), kept


def distinct(examples: Examples) -> Examples:
    first = {text: row for row, text in reversed(list(enumerate(examples.texts)))}
    return examples.take(sorted(first.values()))


def draw(examples: Examples, seed: int, *, per_class: int = 0, total: int = 0) -> Examples:
    """So many of each class at most, or so many at all: in the order that the seed gives."""
    order = np.random.default_rng(seed).permutation(len(examples))
    if total:
        return examples.take(order[:total])
    taken: Counter[object] = Counter()
    rows, label_sets = [], examples.label_sets
    for row in order:
        labels = label_sets[row]
        if any(taken[label] < per_class for label in labels):
            taken.update(labels)
            rows.append(row)
    return examples.take(rows)


def lastblock(train: Examples, test: Examples, seed: int, **settings: Any) -> float:
    classifier = TextClassifier(random_state=seed, **settings).fit(train.texts, train.targets)
    # Kept on disk: other draws are judged on the same texts.
    classifier.model_.prepare(classifier.model_.encode(test.texts))
    if train.separator is None:
        return float(classifier.score(test.texts, test.labels))
    return rivals.micro_f1(test.label_sets, classifier.predict(test.texts))


WAYS: dict[str, Callable[[Examples, Examples, int], float]] = {
    "auto": lastblock,
    "bare": functools.partial(lastblock, prompt="{text}"),
    "no-lexicon": functools.partial(lastblock, lexicon=False),
    "tfidf": rivals.tfidf,
    "minilm": rivals.minilm,
    "fasttext": rivals.fasttext,
    "setfit": rivals.setfit,
    "last-block": functools.partial(lastblock, recipe="chapter6", pooling="last"),
    "trainer-last": functools.partial(rivals.trainer, last_block=True),
    "trainer-full": functools.partial(rivals.trainer, last_block=False),
    "trainer-last-bf16": functools.partial(rivals.trainer, last_block=True, bf16=True),
    "trainer-full-bf16": functools.partial(rivals.trainer, last_block=False, bf16=True),
}
# Rivals that give a text one label: of no use where it may have several.
ONE_LABEL = {"fasttext", "setfit", *(way for way in WAYS if way.startswith("trainer"))}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", nargs="+", default=list(SETS), help=f"{', '.join(SETS)}; or yours"
    )
    parser.add_argument("--per-class", nargs="*", type=int, default=[64])
    parser.add_argument("--total", nargs="*", type=int, default=[], help="examples of all classes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--test", type=int, default=500, help="test examples at most")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["auto", "tfidf", "minilm"])
    parser.add_argument("--depths", nargs="+", type=int, default=[], help="auto, cut here")
    parser.add_argument("--decays", nargs="+", type=float, default=[], help="auto, weight decay so")
    parser.add_argument(
        "--most-minutes", type=float, default=float("inf"), metavar="M",
        help="a way that took longer for one draw gets no other, and no more examples of that set",
    )  # fmt: skip
    given = parser.parse_args()
    if "LASTBLOCK_DATA" not in os.environ:
        sys.exit("LASTBLOCK_DATA is not set: it names the folder with the sets")
    folder = Path(os.environ["LASTBLOCK_DATA"])
    ways = {way: WAYS[way] for way in given.ways}
    ways |= {f"depth-{depth}": functools.partial(lastblock, depth=depth) for depth in given.depths}
    ways |= {f"decay-{x:g}": functools.partial(lastblock, weight_decay=x) for x in given.decays}
    sizes = [(f"{n} a class", {"per_class": n}) for n in given.per_class]
    sizes += [(f"{n:,}", {"total": n}) for n in given.total]
    print(f"{'set':<10}{'examples':<12}{'way':<14}{'mean':>7}{'spread':>8}{'seconds':>9}")
    for name in given.sets:
        train, test = read(folder, name, given.test)
        one_label = train.separator is None
        left = {way: of for way, of in ways.items() if one_label or way not in ONE_LABEL}
        for size, how_many in sizes:
            for way, score in list(left.items()):
                start, scores = time.perf_counter(), []
                for seed in given.seeds:
                    scores.append(score(draw(train, seed, **how_many), test, seed))
                    if time.perf_counter() - start > 60 * given.most_minutes * len(scores):
                        del left[way]
                        break
                seconds = (time.perf_counter() - start) / len(scores)
                row = {"set": name, "examples": size, "way": way, "test": len(test)}
                row |= {
                    "seeds": given.seeds[: len(scores)],
                    "scores": scores,
                    "seconds": round(seconds, 1),
                }
                keep(row)
                spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
                print(
                    f"{name:<10}{size:<12}{way:<14}{statistics.mean(scores):>7.3f}"
                    f"{spread:>8.3f}{seconds:>9.1f}",
                    flush=True,
                )
    print(table(json.loads(RESULT.read_text(encoding="utf-8"))))


def keep(row: dict[str, Any]) -> None:
    """Add a row to the results, in place of an earlier one of the same set, size and way."""
    rows = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else []
    names = ("set", "examples", "way", "test")
    rows = [other for other in rows if any(other[name] != row[name] for name in names)]
    RESULT.parent.mkdir(exist_ok=True)
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
    temporary.replace(RESULT)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each set and size, a column for each way."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lines = ["", f"| set | examples | {' | '.join(ways)} |", "|---|---|" + "---:|" * len(ways)]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        mean = f"{statistics.mean(row['scores']):.3f}"
        spread = f" ± {statistics.stdev(row['scores']):.3f}" if len(row["scores"]) > 1 else ""
        cells.setdefault((row["set"], row["examples"]), {})[row["way"]] = mean + spread
    for (name, size), of in sorted(cells.items()):
        lines.append(f"| {name} | {size} | {' | '.join(of.get(way, '') for way in ways)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
