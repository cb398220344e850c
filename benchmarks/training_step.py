"""A training step on cached activations against the machine's matrix rate.

The step is that of ``lastblock.training``: 16 SMS messages, forward and backward through the tail,
AdamW. The operations of a forward pass are counted by torch itself; backward takes twice as many,
for the gradients of inputs and of weights, also where a step can do without some. The time they
would take is that of torch's own matrix products of the block's shapes, measured in the same run.

    python benchmarks/training_step.py [--steps N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from common import best_seconds, block_shapes, matrix_rate, messages, untrained, write_results
from torch.utils.flop_counter import FlopCounterMode

from lastblock.activations import ActivationStore, states_of
from lastblock.classifier import SequenceClassifier
from lastblock.tokenization.batching import TokenIds
from lastblock.training import AdamW, Encoded, training_step

BATCH = 16


def measure(
    classifier: SequenceClassifier, sequences: Sequence[TokenIds], steps: int
) -> dict[str, float]:
    """Milliseconds of a step and of its parts, and what the arithmetic alone would take."""
    store = ActivationStore()
    store.fill(classifier, sequences)
    labels = np.arange(len(sequences)) % classifier.head.out_features
    part = Encoded(list(sequences), labels)
    optimizer = AdamW(classifier.trainable_parameters(), weight_decay=0.1, lr=1e-4)
    rng = np.random.default_rng(0)
    batches = [part.take(rng.permutation(len(part))[:BATCH]) for _ in range(steps)]
    training_step(classifier, store, batches[0], optimizer)
    operations, taken = [], []
    for batch in batches:
        with FlopCounterMode(display=False) as counter:
            hidden, lengths = states_of(classifier, batch.sequences, store)
            classifier.tail(hidden, lengths)
        operations.append(3 * counter.get_total_flops())
    for batch in batches:
        start = time.perf_counter()
        training_step(classifier, store, batch, optimizer)
        taken.append(time.perf_counter() - start)
    tokens = max(len(ids) for batch in batches[:5] for ids in batch.sequences) * BATCH
    rate = matrix_rate(block_shapes(classifier, tokens))
    arithmetic = float(np.mean(operations)) / rate
    gather = best_seconds(lambda: store.batch(batches[0].sequences), 10)
    adamw = best_seconds(optimizer.step, 10)
    # The quietest quarter: what the machine takes when nothing else runs.
    step = float(np.mean(np.sort(taken)[: max(1, len(taken) // 4)]))
    return {
        "gflop": float(np.mean(operations)) / 1e9,
        "gflop_per_second": rate / 1e9,
        "arithmetic_ms": arithmetic * 1e3,
        "step_ms": step * 1e3,
        "median_step_ms": float(np.median(taken)) * 1e3,
        "gather_ms": gather * 1e3,
        "adamw_ms": adamw * 1e3,
        "ratio": step / arithmetic,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    model = untrained(depth=2)  # what lies below the trained block has no part in a step
    figures = measure(model.classifier, model.encode(messages(400)), options.steps)
    print(
        f"a step: {figures['step_ms']:.1f} ms, of which AdamW {figures['adamw_ms']:.1f}, gathering "
        f"{figures['gather_ms']:.1f}; arithmetic alone ({figures['gflop']:.2f} GFLOP at "
        f"{figures['gflop_per_second']:.0f} GFLOP/s): {figures['arithmetic_ms']:.1f} ms; "
        f"ratio {figures['ratio']:.2f}"
    )
    write_results("training_step", figures)


if __name__ == "__main__":
    main()
