"""How long `lastblock inspect` takes on a million rows, and near duplicates alone on fewer.

The messages are synthetic: words drawn by Zipf's law, about a hundred characters each; one in
twenty repeats an earlier one, one in twenty differs from an earlier one by a word. Processor time,
which other work on the machine changes little, and wall-clock time are both given.

    python benchmarks/data.py [--rows N] [--near N ...] [--write FILE]
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lastblock.data.inspection import normalise
from lastblock.data.near_duplicates import near_duplicate_groups
from lastblock.data.readers import read_examples
from lastblock.data.survey import survey


def messages(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(50_000)])
    counts = rng.integers(8, 28, n)
    drawn = words[np.minimum(rng.zipf(1.3, counts.sum()) - 1, len(words) - 1)].tolist()
    texts: list[str] = []
    start, chances, earlier = 0, rng.random(n), rng.random(n)
    for row, count in enumerate(counts.tolist()):
        text = " ".join(drawn[start : start + count])
        if row and chances[row] < 0.1:
            text = texts[int(earlier[row] * row)] + (" again" if chances[row] < 0.05 else "")
        texts.append(text)
        start += count
    return texts


def timed(work: Callable[..., Any], *given: Any) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work(*given)
    return {
        "processor_seconds": round(time.process_time() - processor, 2),
        "seconds": round(time.perf_counter() - wall, 2),
    }


def look(path: Path) -> None:
    survey(read_examples(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--near", type=int, nargs="+", default=[5_000, 100_000])
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    texts = messages(max(args.rows, *args.near))
    figures: dict[str, Any] = {}
    for n in args.near:
        some = [normalise(text) for text in texts[:n]]
        figures[f"near duplicates, {n:,} texts"] = timed(near_duplicate_groups, some)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = zip(texts[: args.rows], ("ham", "spam", "news") * args.rows, strict=False)
            csv.writer(file).writerows([("text", "label"), *rows])
        del texts
        figures[f"inspect, {args.rows:,} rows"] = timed(look, path)
    for name, of in figures.items():
        print(f"{name:<40}{of['processor_seconds']:8.1f} s processor {of['seconds']:8.1f} s wall")
    figures["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory, the making of the texts included: {figures['peak_megabytes']:,} MB")
    if args.write:
        args.write.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
