"""What a busy neighbour costs: products of a training step's size, spinning long or short.

torch's threads spin while they wait for one another. Each setting runs in a process of its own,
beside one other process that never rests, since the setting is read when torch is imported.

    python benchmarks/threads.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

WORK = """
import time, torch
x, w = torch.randn(600, 576), torch.randn(384, 576)
def step():
    for _ in range(100):
        torch.nn.functional.linear(x, w)
step()
taken = []
for _ in range(5):
    start = time.perf_counter(); step(); taken.append(time.perf_counter() - start)
print(sorted(taken)[2] * 1000)
"""
NEIGHBOUR = "while True: pass"
SPINS = (None, "1000", "3000", "10000", "100000")


def milliseconds(spin: str | None) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    for busy in (False, True):
        neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) if busy else None
        try:
            taken: dict[str | None, list[float]] = {spin: [] for spin in SPINS}
            for _ in range(3):  # in turn, as the machine may be quicker at one time than another
                for spin in SPINS:
                    taken[spin].append(milliseconds(spin))
        finally:
            if neighbour is not None:
                neighbour.kill()
        where = "beside a busy process" if busy else "alone"
        for spin, each in taken.items():
            median = statistics.median(each)
            name = spin or "torch's own"
            print(f"spin {name:<12} {where:<22} {median:8.1f} ms for 100 products")


if __name__ == "__main__":
    main()
