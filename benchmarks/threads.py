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
            for name, spin in (("torch's own", None), ("1000", "1000")):
                taken = statistics.median(milliseconds(spin) for _ in range(3))
                where = "beside a busy process" if busy else "alone"
                print(f"spin {name:<12} {where:<22} {taken:8.1f} ms for 100 products")
        finally:
            if neighbour is not None:
                neighbour.kill()


if __name__ == "__main__":
    main()
