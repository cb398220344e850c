"""Whether cost grows with the work and with nothing else: 1,000, 10,000, 100,000 texts.

They are SMS messages, and the reviews of ``imdb_10k`` where LASTBLOCK_DATA has them, each round of
them a little different. Each size is a process of its own, which does the work once for one text
(or twenty, for training) before it is timed. ``predict`` streams a CSV file; ``train`` fits with
activations on disk, and once more with none. Seconds are those beyond what so few texts take, for
each thousand tokens; memory is the process's peak. Where the machine is shared one turn says
little: of several, all sizes in each, medians are given, and the median of how many times the first
size's seconds a size takes in the same turn. The decoder is a tiny random one, on which what is not
arithmetic shows most; ``--full`` takes the default decoder, for hours. On Linux.

    python benchmarks/scaling.py [--sizes 1000 10000] [--kinds messages] [--tasks predict]
        [--turns N] [--full]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, messages, own_cache, repeated, tiny_decoder, write_results

from lastblock import TextClassifier
from lastblock.config import DEFAULT_MODEL
from lastblock.data.catalog import load_examples

KINDS = ("messages", "reviews")
TASKS = ("predict", "train, activations on disk", "train, in memory")

# What a child says of itself: seconds beyond those of a few texts, and its peak memory, which the
# parent's count would mix with the parent's own size.
TIMED = """
import time
def seconds_of(data):
    start = time.perf_counter()
    work(data)
    return time.perf_counter() - start
few, data = sys.argv[-2:]
seconds_of(few)
of_few = seconds_of(few)
print(seconds_of(data) - of_few)
with open("/proc/self/status") as file:
    print(next(line for line in file if line.startswith("VmHWM")).split()[1])
"""
PREDICT = """
import sys
from lastblock.cli import run
def work(data):
    if run(["predict", *sys.argv[1:4], "-i", data]):
        raise SystemExit(1)
"""
FIT = """
import csv, sys
from lastblock import TextClassifier
def work(data):
    with open(data, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    classifier = TextClassifier(sys.argv[1], depth=int(sys.argv[2]), epochs=1, dtype="float32")
    classifier.fit([text for text, _ in rows], [label for _, label in rows])
"""


def texts_of(kind: str, count: int) -> list[str]:
    """So many messages or reviews; none, where there are no reviews."""
    if kind == "messages":
        return messages(count)
    path = Path(os.environ.get("LASTBLOCK_DATA", "")) / "imdb_10k" / "train.csv"
    return repeated(load_examples(str(path)).texts, count) if path.exists() else []


def run(command: Sequence[str], cache_size: float) -> tuple[float, float]:
    """What a process that finds no activations of another's says: seconds, and MB at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        cache = own_cache(Path(folder) / "cache")
        environment = {"LASTBLOCK_CACHE": str(cache), "LASTBLOCK_CACHE_SIZE": str(cache_size)}
        process = subprocess.run(
            command,
            env={**os.environ, **environment},
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        seconds, peak = map(float, process.stdout.split())
        return seconds, peak / 1024


def write(path: Path, texts: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, "ab"[i % 2]] for i, text in enumerate(texts))


def measure(
    decoder: str,
    depth: int,
    texts: Sequence[str],
    sizes: Sequence[int],
    folder: Path,
    names: Sequence[str] = TASKS,
    turns: int = 1,
) -> dict[str, list[dict[str, float]]]:
    """By task, one entry a size: texts, tokens, seconds beyond a few texts', peak memory."""
    folder.mkdir()
    fitted = TextClassifier(decoder, depth=depth, epochs=1, dtype="float32", cache_size=0)
    fitted.fit(list(texts[:20]), ["a", "b"] * 10)
    fitted.save(folder / "model")
    encoded = fitted.model_.encode(list(texts[: max(sizes)]))
    python, files = sys.executable, {size: folder / f"{size}.csv" for size in (1, 20, *sizes)}
    for size, path in files.items():
        write(path, texts[:size])
    predict = [python, "-c", PREDICT + TIMED, str(folder / "model"), "-o", str(folder / "out.csv")]
    train = [python, "-c", FIT + TIMED, decoder, str(depth)]
    tasks = dict(zip(TASKS, [(predict, 0.0, 1), (train, 20.0, 20), (train, 0.0, 20)], strict=True))
    tokens = {size: sum(map(len, encoded[:size])) for size in sizes}
    found: dict[str, list[dict[str, float]]] = {}
    for name in names:
        command, cache_size, least = tasks[name]
        taken: dict[int, list[float]] = {size: [] for size in sizes}
        peak = dict.fromkeys(sizes, 0.0)
        for _ in range(turns):
            for size in sizes:
                seconds, most = run([*command, str(files[least]), str(files[size])], cache_size)
                taken[size].append(seconds / tokens[size] * 1000)
                peak[size] = max(peak[size], most)
        for size in sizes:
            ratios = [a / b for a, b in zip(taken[size], taken[sizes[0]], strict=True)]
            entry = {
                "texts": size,
                "tokens": tokens[size],
                "seconds_per_1000_tokens": statistics.median(taken[size]),
                "beside_the_first": statistics.median(ratios),
                "peak_mb": peak[size],
            }
            found.setdefault(name, []).append(entry)
            print(
                f"{name:<28}{size:>8,} texts{entry['seconds_per_1000_tokens']:>10.4f} s a thousand "
                f"tokens ({min(taken[size]):.4f} to {max(taken[size]):.4f}), "
                f"{entry['beside_the_first']:.2f} times the first{peak[size]:>8,.0f} MB"
            )
    return found


def plot(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Both figures over the number of texts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    wanted = {"seconds_per_1000_tokens": "seconds a thousand tokens", "peak_mb": "peak memory, MB"}
    for axis, (key, title) in zip(axes, wanted.items(), strict=True):
        for name, entries in found.items():
            sizes = [entry["texts"] for entry in entries]
            axis.plot(sizes, [entry[key] for entry in entries], marker="o", label=name)
        axis.set(xscale="log", xlabel="texts", title=title)
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="the default decoder, not a tiny one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        decoder = DEFAULT_MODEL if options.full else str(tiny_decoder(Path(name) / "tiny"))
        depth = 20 if options.full else 3
        for kind in options.kinds:
            texts = texts_of(kind, max(options.sizes))
            if not texts:
                print("reviews are left out: LASTBLOCK_DATA has no imdb_10k/train.csv")
                continue
            print(f"{kind}:")
            place, how = Path(name) / kind, (options.tasks, options.turns)
            found = measure(decoder, depth, texts, options.sizes, place, *how)
            write_results(f"scaling_{kind}", {"full": options.full, "tasks": found})
            plot(found, RESULTS / f"scaling_{kind}.svg")


if __name__ == "__main__":
    main()
