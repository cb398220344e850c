"""Where the time of ``lastblock train`` goes, the first time and with activations on disk.

Three whole processes on the same messages: the first with no activations kept, the second with
another learning rate, the third with another number of epochs. The picture shows each step's
seconds.

    python benchmarks/where.py [--texts N]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, own_cache, seconds_of, write_results

from lastblock.data.catalog import load_examples

RUNS = {
    "first": [],
    "other learning rate": ["--learning-rate", "5e-4"],
    "other epochs": ["--epochs", "3"],
}
STEPS = ("weights", "tokenize", "activations", "train", "evaluate", "rest")


def measure(data: Path, folder: Path, more: list[str]) -> dict[str, dict[str, Any]]:
    """By run: seconds by step, of the whole process, and tokens that the frozen pass computed."""
    environment = {**os.environ, "LASTBLOCK_CACHE": str(own_cache(folder / "cache"))}
    environment["LASTBLOCK_CACHE_SIZE"] = "20"
    found = {}
    for name, options in RUNS.items():
        output = folder / "model"
        command = [sys.executable, "-m", "lastblock", "train", str(data), "-o", str(output)]

        def run(command: list[str] = [*command, *more, *options]) -> None:  # noqa: B006
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

        whole = seconds_of(run)
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
        seconds = {step: report["seconds"].get(step, 0.0) for step in STEPS[:-1]}
        seconds["rest"] = max(0.0, whole - sum(seconds.values()))
        found[name] = {"seconds": seconds, "whole": whole, "tokens_computed": report["tokens"]}
        print(f"{name:<20}{whole:>8.1f} s, {report['tokens']:,} tokens through the frozen prefix")
    return found


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """A bar a run, its steps one after the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 2.2), layout="constrained")
    names, left = list(found), [0.0] * len(found)
    for step in STEPS:
        width = [found[name]["seconds"][step] for name in names]
        axis.barh(names, width, left=left, label=step)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("seconds")
    axis.legend(
        frameon=False, fontsize=8, ncols=len(STEPS), loc="lower center", bbox_to_anchor=(0.5, 1)
    )
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1494)
    options = parser.parse_args()
    examples = load_examples("sms-spam")
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "messages.csv"
        with data.open("w", encoding="utf-8", newline="") as file:
            rows = zip(examples.texts, examples.labels, strict=True)
            csv.writer(file).writerows([("text", "label"), *list(rows)[: options.texts]])
        found = measure(data, Path(name), [])
    write_results("where", {"texts": options.texts, "runs": found})
    plot(found, RESULTS / "where.svg")


if __name__ == "__main__":
    main()
