"""How long the command line takes to answer from a cold process, and a warm model in a process.

Every run is a process of its own, the first not counted (it reads files from disk); shown is the
median. The model is the default decoder cut at 20 blocks, with an untrained head.

    python benchmarks/startup.py [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import in_precision, seconds_of, write_results

from lastblock import checkpoint
from lastblock.decoder import kernels
from lastblock.runtime import fastest_precision

TEXT = "You have been specially selected to receive a $2000 award. Call to claim."  # 30 tokens
# What ``lastblock predict`` imports, and how it ends.
IMPORTS = """
import os
from lastblock import runtime
runtime.spare_torch_compiler()
with runtime.without_collecting():
    import lastblock.checkpoint
os._exit(0)
"""


def processes(model: Path, runs: int) -> dict[str, float]:
    """Median seconds of each command."""
    python = [sys.executable]
    commands = {
        "python": [*python, "-c", "pass"],
        "help": [*python, "-m", "lastblock", "--help"],
        "import_torch": [*python, "-c", "import torch"],
        "import_inference": [*python, "-c", "import lastblock.checkpoint"],
        "import_in_predict": [*python, "-c", IMPORTS],
        "predict": [*python, "-m", "lastblock", "predict", str(model), TEXT],
    }
    seconds = {}
    for name, command in commands.items():
        taken = [
            seconds_of(lambda c=command: subprocess.run(c, check=True, capture_output=True))
            for _ in range(runs + 1)
        ]
        seconds[name] = statistics.median(taken[1:])
    return seconds


def warm(model: Path, runs: int) -> dict[str, float]:
    """Milliseconds of one text in a process that has the model: median and 95th percentile."""
    loaded = checkpoint.load(model)
    tokens = len(loaded.encode([TEXT])[0])
    for _ in range(5):
        loaded.predict_proba([TEXT])
    taken = sorted(seconds_of(lambda: loaded.predict_proba([TEXT])) * 1e3 for _ in range(runs))
    return {"tokens": tokens, "p50_ms": taken[len(taken) // 2], "p95_ms": taken[-len(taken) // 20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        precision = fastest_precision(1536, 576, int8=True, kernels=kernels.have_fastest_integers())
        checkpoint.save(in_precision(precision, depth=20), model)
        seconds = processes(model, options.runs)
        figures = {"seconds": seconds, "warm": warm(model, options.runs * 20)}
        figures["precision"] = precision
    for name, value in seconds.items():
        print(f"{name:<18}{value:>8.2f} s")
    print(
        f"one text of {figures['warm']['tokens']} tokens, warm: {figures['warm']['p50_ms']:.1f} ms"
    )
    write_results("startup", figures)


if __name__ == "__main__":
    main()
