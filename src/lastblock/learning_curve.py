"""Would more labels help? The classifier and the baseline, trained on more and more of the texts.

Every size is drawn several times, each draw a part of the next larger one, and judged on the test
part, which no draw learns from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lastblock.baseline import fit_baseline
from lastblock.config import NO_SEPARATOR, CurveConfig, RunConfig
from lastblock.data.examples import Examples, Label, Rows
from lastblock.decision import Decision
from lastblock.errors import ConfigError, DataError
from lastblock.finetune import make_classifier, read, split
from lastblock.judging import judge
from lastblock.recipe import DATA_RULES
from lastblock.runtime import Progress, Silent, TasksOnly

# What a doubling of the labels must bring, of accuracy, to be worth the work.
WORTH = 0.005
# Sizes, counted from the largest, from which the gain is read off.
LAST_SIZES = 3
# The smallest size: texts for each class.
LEAST_PER_CLASS = 4

Scores = dict[str, float]


def learning_curve(
    config: RunConfig, curve: CurveConfig, progress: Progress | None = None
) -> dict[str, Any]:
    """Scores by number of training texts, and what they say about having more.

    Returns:
        Made of what JSON can hold: "data", "test_texts", "sizes", "draws", "points" (dicts of n,
        draw, and the scores of "ours" and "baseline"), "curves" (of both, dicts of n, mean and sd
        of the accuracy), "per_doubling" (accuracy gained by each doubling of the labels, with
        its 95 % interval) and "answer", in plain words.

    Raises:
        LastblockError: with one line that says what, where and what to do.
    """
    progress = progress or Silent()
    examples, _ = read(config.data, progress)
    if examples.separator is not None:
        raise ConfigError(
            f"{examples.source}: {examples.separator!r} joins several labels of a text; a learning "
            f"curve is for one label a text (--label-separator {NO_SEPARATOR}, if each is one)"
        )
    parts = split(examples, config, DATA_RULES[config.train.recipe], progress)
    if not len(parts["test"]):
        raise DataError(f"{examples.source}: no row is left to test on; give --test FILE")
    learn_from = parts["train"].joined_with(parts["validation"])
    sizes = spaced_sizes(len(learn_from), len(set(learn_from.labels)), curve.points)
    points = []
    for draw in range(curve.draws):
        seed = (config.train.seed + draw) % 2**32
        order = stratified_order(learn_from.labels, seed)
        # The largest first: its frozen pass is the only one.
        for n in reversed(sizes):
            progress.say(f"draw {draw + 1} of {curve.draws}: {n:,} texts to learn from")
            drawn = learn_from.take(order[:n])
            ours, baseline = _judge(config, drawn, parts["test"], seed, TasksOnly(progress))
            points.append({"n": n, "draw": draw, "ours": ours, "baseline": baseline})
    curves = {name: list(_curve(points, name, sizes)) for name in ("ours", "baseline")}
    gain = gain_per_doubling(points, sizes)
    return {
        "data": examples.source,
        "test_texts": len(parts["test"]),
        "sizes": sizes,
        "draws": curve.draws,
        "points": points,
        "curves": curves,
        "per_doubling": gain,
        "answer": answer(curves, gain),
    }


def spaced_sizes(most: int, n_classes: int, points: int) -> list[int]:
    """At most ``points`` sizes up to ``most``, evenly spaced on a log scale, ascending."""
    least = min(LEAST_PER_CLASS * n_classes, most)
    return np.unique(np.geomspace(least, most, points).round().astype(np.int64)).tolist()


def stratified_order(labels: Sequence[Label], seed: int) -> Rows:
    """Rows (n,) in a random order of which every beginning has the classes' shares, nearly.

    The first rows are one of each class.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    place = np.empty(len(labels))
    for code in range(codes.max() + 1):
        rows = shuffled[codes[shuffled] == code]
        place[rows] = np.arange(len(rows)) / len(rows)
    return shuffled[np.argsort(place[shuffled], kind="stable")]


def gain_per_doubling(points: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Accuracy over log2 of the size, by least squares over the largest sizes' points.

    Returns:
        "gain", and its 95 % interval "ci95" by Student's t; both None of fewer than three points
        or of one size.
    """
    last = sizes[-LAST_SIZES:]
    of_last = [point for point in points if point["n"] in last]
    if len(last) < 2 or len(of_last) < 3:
        return {"gain": None, "ci95": None}
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    x = np.log2([point["n"] for point in of_last])
    y = np.array([point["ours"]["accuracy"] for point in of_last])
    x = x - x.mean()
    gain = float(x @ y / (x @ x))
    residuals = y - y.mean() - gain * x
    freedom = len(y) - 2
    error = float(np.sqrt(residuals @ residuals / freedom / (x @ x)))
    reach = float(stdtrit(freedom, 0.975)) * error
    return {"gain": gain, "ci95": [gain - reach, gain + reach]}


def answer(curves: dict[str, list[dict[str, float]]], per_doubling: dict[str, Any]) -> str:
    """Would more labels help, and how does the baseline compare? In plain words."""
    ours, baseline = curves["ours"], curves["baseline"]
    n, reached, rival = int(ours[-1]["n"]), ours[-1]["mean"], baseline[-1]["mean"]
    as_good = next((int(point["n"]) for point in ours if point["mean"] >= rival), None)
    sentences = [
        _more_labels(n, reached, per_doubling),
        f"With {n:,} labels accuracy is {_percent(reached)}, that of TF-IDF {_percent(rival)}.",
    ]
    if as_good is not None and as_good < n:
        sentences.append(f"What TF-IDF reaches with {n:,} labels takes {as_good:,} here.")
    return " ".join(sentences)


def _more_labels(n: int, reached: float, per_doubling: dict[str, Any]) -> str:
    gain, ci95 = per_doubling["gain"], per_doubling["ci95"]
    if gain is None:
        return "Whether more labels would help cannot be said of so few points."
    low, high = ci95
    lately = (
        f"of late each doubling changed accuracy by {100 * gain:+.1f} points "
        f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
    )
    if gain >= WORTH and low > 0:
        expected = _percent(min(1.0, reached + gain))
        return f"Yes, more labels would help: {lately}; {2 * n:,} may reach {expected}."
    if high < WORTH:
        return f"No, more labels would hardly help: {lately}."
    return f"Perhaps more labels would help: {lately}, which leaves both open; --draws tells more."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _judge(
    config: RunConfig, drawn: Examples, test: Examples, seed: int, progress: Progress
) -> tuple[Scores, Scores]:
    """What the classifier and the baseline reach on ``test`` having learnt from ``drawn``."""
    classifier = make_classifier(config).set_params(random_state=seed)
    classifier.fit(drawn.texts, drawn.labels, progress=progress)
    model, names = classifier.model_, classifier.model_.class_names
    truth = classifier.number(test.labels, test.texts)
    model.store.fill(model.classifier, model.encode(test.texts), progress)
    learnt = classifier.number(drawn.labels, drawn.texts)
    baseline = fit_baseline(drawn.texts, learnt, len(names), seed)
    judged = (
        (model.decision, classifier.predict_proba(test.texts)),
        (Decision(), baseline.predict_proba(test.texts)),
    )
    ours, theirs = (_numbers(judge(by, truth, said, names)) for by, said in judged)
    return ours, theirs


def _numbers(scores: dict[str, Any]) -> Scores:
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def _curve(
    points: Sequence[dict[str, Any]], name: str, sizes: Sequence[int]
) -> Iterator[dict[str, float]]:
    for n in sizes:
        values = [point[name]["accuracy"] for point in points if point["n"] == n]
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        yield {"n": n, "mean": float(np.mean(values)), "sd": sd}
