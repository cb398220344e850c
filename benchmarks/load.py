"""How long a decoder takes to be there: the first time, fetched and converted, and ever after.

Every load is a process of its own; torch's own import is not counted. After the second load the
growth of resident memory is read before anything has run, and then the frozen pass of two thirds
of the blocks is timed on a few hundred tokens. Models that cannot be had from here are listed
with the reason.

    python benchmarks/load.py [--models NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lastblock.decoder.catalog import MODELS

BATCH, LENGTH, PASSES = 8, 64, 3

CHILD = f"""
import json, resource, sys, time
import torch
from lastblock.decoder import hub, loading
from lastblock.errors import LastblockError
from lastblock.runtime import faster_dtype
from lastblock.tokenization.tokenizer import Tokenizer

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

name, whole = sys.argv[1], sys.argv[2] == "whole"
before, start = resident(), time.perf_counter()
try:
    files = hub.resolve(name)
except LastblockError as error:
    sys.exit(str(error))
shape = loading.read_config(files.folder)
depth = max(1, round(shape.num_hidden_layers * 2 / 3))
decoder = loading.load_decoder(files.folder, depth=depth)
result = {{"seconds": time.perf_counter() - start, "resident_mb": (resident() - before) / 1e6}}
if whole:
    start = time.perf_counter()
    Tokenizer.from_pretrained(files.folder)
    result["tokenizer_seconds"] = time.perf_counter() - start
    dtype = faster_dtype(2 * shape.intermediate_size, shape.hidden_size)
    decoder = decoder.to(getattr(torch, dtype)).eval()
    ids = torch.randint(shape.vocab_size, ({BATCH}, {LENGTH}))
    seconds = []
    with torch.inference_mode():
        for _ in range({PASSES}):
            start = time.perf_counter()
            decoder(ids)
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    rate = ids.numel() / min(seconds)
    result |= {{"depth": depth, "dtype": dtype, "tokens_per_second": rate, "peak_mb": peak}}
print(json.dumps(result))
"""


def load(name: str, cache: Path, whole: bool) -> dict[str, Any]:
    """Load in a new process; what it measured, or ``{"error": ...}``."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, name, "whole" if whole else "load"],
        env=os.environ | {"LASTBLOCK_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"error": (done.stderr.strip() or "no message").splitlines()[-1]}
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    print(
        f"{'model':24}{'first s':>9}{'second s':>10}{'MB':>6}{'tokenizer s':>13}"
        f"{'tokens/s':>10}{'peak MB':>9}"
    )
    for name in arguments.models:
        with tempfile.TemporaryDirectory(prefix="lastblock-load-") as folder:
            first = load(name, Path(folder), whole=False)
            if "error" in first:
                results[name] = first
                print(f"{name:24}cannot be had: {first['error']}")
                continue
            second = load(name, Path(folder), whole=True)
        results[name] = {"first_seconds": first["seconds"], **second}
        print(
            f"{name:24}{first['seconds']:9.1f}{second['seconds']:10.3f}"
            f"{second['resident_mb']:6.0f}{second['tokenizer_seconds']:13.2f}"
            f"{second['tokens_per_second']:10.0f}{second['peak_mb']:9.0f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
