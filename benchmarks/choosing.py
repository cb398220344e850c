"""What choosing the depth from the data costs, on top of a run whose depth is given.

The same messages are learnt twice in turn, nothing kept from one fit for the next: as `auto` does
it, and with --depth set to what it chose. Both end with the same classifier.

    python benchmarks/choosing.py [--texts N] [--turns N]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import seconds_of, write_results

from lastblock import TextClassifier
from lastblock.data.balance import undersample
from lastblock.data.catalog import load_examples


def measure(
    texts: Sequence[str], labels: Sequence[str], turns: int, **settings: Any
) -> dict[str, float]:
    """Median seconds of both, the share that choosing adds, and the depth that was chosen."""

    def fit(**more: Any) -> TextClassifier:
        classifier = TextClassifier(cache_size=0, **settings, **more)
        return classifier.fit(list(texts), list(labels))

    depth = fit().model_.settings.depth  # and all that a first run imports and compiles
    chosen, given = [], []
    for _ in range(turns):
        chosen.append(seconds_of(fit))
        given.append(seconds_of(lambda: fit(depth=depth)))
    medians = statistics.median(chosen), statistics.median(given)
    return {
        "chosen_seconds": medians[0],
        "given_seconds": medians[1],
        "choosing_adds": medians[0] / medians[1] - 1,
        "depth": depth,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    examples = load_examples("sms-spam")
    rows = np.random.default_rng(0).permutation(undersample(examples.labels, seed=0))
    examples = examples.take(rows[: given.texts])
    figures = measure(examples.texts, examples.labels, given.turns)
    print(
        f"depth chosen: {figures['chosen_seconds']:.1f} s, given: {figures['given_seconds']:.1f}; "
        f"choosing adds {figures['choosing_adds']:.0%} (target: less than 30 %); {given.texts} "
        f"messages, cut at {figures['depth']:.0f}"
    )
    write_results("choosing", {**figures, "options": vars(given)})


if __name__ == "__main__":
    main()
