"""How many labels `lastblock suggest` saves on TREC-6 against drawing texts at random.

Both begin with the same few labelled texts. In each round a classifier is trained on those that
are labelled and judged on the 500 test questions; then more are labelled: those suggested, or as
many drawn at random. Where the curve first crosses 0.90, on a line between two rounds, is the
number of labels needed.

Needs LASTBLOCK_DATA. The frozen pass is made once; its activations are kept on disk.

    python benchmarks/suggest.py [--seeds N ...] [--sizes N ...] [--picture FILE] [--write FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lastblock import TextClassifier
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.suggest import choose, suggest

GOAL = 0.90
COLOURS = {"random": "#8a8a92", "suggested": "#3246c8", "unsure": "#c2571a", "badge": "#2f855a"}


def unsure(states: Any, probabilities: np.ndarray, n: int) -> np.ndarray:
    """The smallest margins, however alike the texts are (Scheffer, Decomain and Wrobel 2001)."""
    likeliest = np.sort(probabilities, axis=1)
    return np.argsort(likeliest[:, -1] - likeliest[:, -2], kind="stable")[:n]


def badge(states: np.ndarray, probabilities: np.ndarray, n: int) -> np.ndarray:
    """k-means++ over the gradients that the head would get (Ash and others 2020, BADGE)."""
    rng = np.random.default_rng(0)
    states = (states - states.mean(0)) / np.maximum(states.std(0), 1e-6)
    error = probabilities.copy()
    error[np.arange(len(error)), error.argmax(1)] -= 1
    squares = (error**2).sum(1) * (states**2).sum(1)
    nearest, chosen = squares.copy(), [int(squares.argmax())]
    while len(chosen) < n:
        last = chosen[-1]
        apart = squares + squares[last] - 2 * (error @ error[last]) * (states @ states[last])
        nearest = np.minimum(nearest, np.maximum(apart, 0))
        nearest[chosen] = 0
        chosen.append(int(rng.choice(len(states), p=nearest / nearest.sum())))
    return np.array(chosen)


WAYS = {"suggested": choose, "unsure": unsure, "badge": badge}


def curve(
    way: str, pool: Examples, test: Examples, sizes: list[int], seed: int, settings: dict[str, Any]
) -> list[float]:
    """Test accuracy at each number of labels."""
    order = np.random.default_rng(seed).permutation(len(pool)).tolist()
    have, accuracies = order[: sizes[0]], []
    for size, more in zip(sizes, [*sizes[1:], 0], strict=True):
        labelled = pool.take(have)
        classifier = TextClassifier(**settings, random_state=seed)
        classifier.fit(labelled.texts, labelled.labels)
        model = classifier.model_
        model.store.fill(model.classifier, model.encode([*pool.texts, *test.texts]))
        accuracies.append(float(classifier.score(test.texts, test.labels)))
        print(f"{way}, seed {seed}: {size} labels, accuracy {accuracies[-1]:.3f}", flush=True)
        if more and way == "random":
            have = order[:more]
        elif more:
            rest = np.setdiff1d(order, have, assume_unique=True)
            texts = [pool.texts[row] for row in rest]
            found = suggest(model, texts, more - size, known=labelled.texts, by=WAYS[way])
            have = [*have, *(int(rest[s.row - 1]) for s in found)]
    return accuracies


def labels_needed(sizes: list[int], accuracies: list[float]) -> float:
    """Where the curve first reaches the goal; NaN where it does not."""
    if accuracies[0] >= GOAL:
        return float(sizes[0])
    for (a, low), (b, high) in itertools.pairwise(zip(sizes, accuracies, strict=True)):
        if high >= GOAL:
            return a + (b - a) * (GOAL - low) / (high - low)
    return float("nan")


def draw(curves: dict[str, np.ndarray], sizes: list[int], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for way, each in curves.items():
        axes.plot(sizes, each.mean(0), color=COLOURS[way], marker="o", label=way)
        axes.fill_between(sizes, each.min(0), each.max(0), color=COLOURS[way], alpha=0.12, lw=0)
    axes.axhline(GOAL, color="#c2571a", linewidth=1, linestyle="--")
    axes.set(xlabel="labelled questions", ylabel="accuracy on the 500 test questions")
    axes.set_title("TREC-6: labels drawn at random, and suggested", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    sizes = [100, 200, 300, 400, 500, 600, 800, 1000, 1200, 1500, 2000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes)
    ways = ["random", *WAYS]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways[:2], help="random first")
    parser.add_argument("--pool", type=int, help="questions to choose from; all if not given")
    parser.add_argument("--depth", type=int, help="blocks kept; the recipe's choice if not given")
    parser.add_argument("--train", default="blocks", help="what is trained: blocks, or head alone")
    parser.add_argument("--picture", type=Path, help="file for the curve (.svg, .png)")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    folder = Path(os.environ["LASTBLOCK_DATA"]) / "trec6"
    pool, test = load_examples(folder / "train.csv"), load_examples(folder / "test.csv")
    if args.pool:
        pool = pool.take(np.random.default_rng(0).permutation(len(pool))[: args.pool])
    curves, needed = {}, {}
    for way in args.ways:
        settings = {"depth": args.depth, "train": args.train}
        each = [curve(way, pool, test, args.sizes, seed, settings) for seed in args.seeds]
        curves[way] = np.array(each)
        needed[way] = labels_needed(args.sizes, curves[way].mean(0).tolist())
        print(f"{way}: mean accuracy {np.round(curves[way].mean(0), 3).tolist()}")
        fewer = 1 - needed[way] / needed[args.ways[0]]
        print(f"{way}: {needed[way]:.0f} labels to reach {GOAL}, {fewer:.0%} fewer than at random")
    if args.picture:
        draw(curves, args.sizes, args.picture)
    if args.write:
        figures = {"sizes": args.sizes, "seeds": args.seeds, "labels_to_0.90": needed}
        figures |= {way: each.tolist() for way, each in curves.items()}
        args.write.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
