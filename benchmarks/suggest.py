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

import numpy as np

from lastblock import TextClassifier
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.suggest import suggest

GOAL = 0.90


def curve(
    way: str, pool: Examples, test: Examples, sizes: list[int], seed: int, depth: int | None
) -> list[float]:
    """Test accuracy at each number of labels."""
    order = np.random.default_rng(seed).permutation(len(pool)).tolist()
    have, accuracies = order[: sizes[0]], []
    for size, more in zip(sizes, [*sizes[1:], 0], strict=True):
        labelled = pool.take(have)
        classifier = TextClassifier(depth=depth, random_state=seed)
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
            found = suggest(model, texts, more - size, known=labelled.texts)
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
    for (way, each), colour in zip(curves.items(), ("#8a8a92", "#3246c8"), strict=True):
        axes.plot(sizes, each.mean(0), color=colour, marker="o", label=way)
        axes.fill_between(sizes, each.min(0), each.max(0), color=colour, alpha=0.15, linewidth=0)
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
    parser.add_argument("--pool", type=int, help="questions to choose from; all if not given")
    parser.add_argument("--depth", type=int, help="blocks kept; the recipe's choice if not given")
    parser.add_argument("--picture", type=Path, help="file for the curve (.svg, .png)")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    folder = Path(os.environ["LASTBLOCK_DATA"]) / "trec6"
    pool, test = load_examples(folder / "train.csv"), load_examples(folder / "test.csv")
    if args.pool:
        pool = pool.take(np.random.default_rng(0).permutation(len(pool))[: args.pool])
    curves, needed = {}, {}
    for way in ("random", "suggested"):
        each = [curve(way, pool, test, args.sizes, seed, args.depth) for seed in args.seeds]
        curves[way] = np.array(each)
        needed[way] = labels_needed(args.sizes, curves[way].mean(0).tolist())
        print(f"{way}: mean accuracy {np.round(curves[way].mean(0), 3).tolist()}")
    saved = 1 - needed["suggested"] / needed["random"]
    print(
        f"labels to reach {GOAL}: {needed['random']:.0f} at random, {needed['suggested']:.0f} "
        f"suggested: {saved:.0%} fewer"
    )
    if args.picture:
        draw(curves, args.sizes, args.picture)
    if args.write:
        figures = {"sizes": args.sizes, "seeds": args.seeds, "labels_to_0.90": needed}
        figures |= {way: each.tolist() for way, each in curves.items()}
        args.write.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
