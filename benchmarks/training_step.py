"""A training step on cached activations against the machine's matrix rate.

The step is that of ``lastblock.training``: 16 SMS messages, forward and backward through the tail,
AdamW, over activations as they are kept here by default (``--dtype auto``). Counted are the
products of a block for one token of each text, with keys and values of all tokens; backward takes
twice as many operations, for the gradients of inputs and of weights: also what a step can do
without. The time they would take is that of torch's own matrix products of the block's shapes.
Steps of both ways and products take turns, and of each the quietest quarter counts.

    python benchmarks/training_step.py [--turns N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from common import block_shapes, in_precision, messages, products, seconds_of, write_results

from lastblock.activations import ActivationStore
from lastblock.classifier import SequenceClassifier
from lastblock.config import DEFAULT_MODEL
from lastblock.decoder import hub, kernels, loading
from lastblock.decoder.layers import Block
from lastblock.runtime import fastest_precision
from lastblock.tokenization.batching import TokenIds
from lastblock.training import AdamW, Encoded, training_step

BATCH = 16
# Steps of each way, and products, in a turn.
EACH = 5


def quietest(taken: Sequence[float]) -> float:
    """The mean of the quietest quarter: what the machine takes when nothing else runs."""
    return float(np.mean(np.sort(taken)[: max(1, len(taken) // 4)]))


def plain_operations(block: Block, tokens: int, texts: int) -> int:
    """Of one step's products, forward and backward, over so many tokens of so many texts."""
    attn, weights = block.attn, [p for p in block.parameters() if p.dim() == 2]
    for_all = 2 * attn.kv_heads * attn.head_dim * attn.qkv.weight.shape[1]
    for_one = sum(weight.numel() for weight in weights) - for_all
    return 3 * 2 * (tokens * for_all + texts * for_one)


def measure(
    classifier: SequenceClassifier, sequences: Sequence[TokenIds], turns: int
) -> dict[str, float]:
    """Milliseconds of a step, in C and operation by operation, and of the arithmetic alone."""
    store, whole = ActivationStore(), classifier.tail_steps()
    store.fill(classifier, sequences)
    labels = np.arange(len(sequences)) % classifier.head.out_features
    part = Encoded(list(sequences), labels)
    optimizer = AdamW(classifier.trainable_parameters(), weight_decay=0.1, lr=1e-4)
    rng = np.random.default_rng(0)
    batches = [part.take(rng.permutation(len(part))[:BATCH]) for _ in range(turns * EACH)]
    block: Block = classifier.decoder.blocks[-1]  # type: ignore[assignment]
    operations = [
        plain_operations(block, sum(len(ids) for ids in batch.sequences), len(batch))
        for batch in batches
    ]
    tokens = max(len(ids) for batch in batches[:5] for ids in batch.sequences) * BATCH
    work, of_products = products(block_shapes(classifier, tokens))
    ways = {"step": whole, "step_one_by_one": None}
    taken: dict[str, list[float]] = {name: [] for name in (*ways, "products")}
    for turn in range(turns):
        for name, steps_in_c in ways.items():
            # The first is not counted: what it reads is not in cache any more.
            training_step(classifier, store, batches[0], optimizer, steps_in_c)
            for batch in batches[turn * EACH : (turn + 1) * EACH]:
                start = time.perf_counter()
                training_step(classifier, store, batch, optimizer, steps_in_c)
                taken[name].append(time.perf_counter() - start)
        taken["products"] += [sum(map(seconds_of, work)) for _ in range(1 + EACH)][1:]
    rate = of_products / quietest(taken["products"])
    arithmetic, step = float(np.mean(operations)) / rate, quietest(taken["step"])
    return {
        "gflop": float(np.mean(operations)) / 1e9,
        "gflop_per_second": rate / 1e9,
        "arithmetic_ms": arithmetic * 1e3,
        "step_ms": step * 1e3,
        "median_step_ms": float(np.median(taken["step"])) * 1e3,
        "step_one_by_one_ms": quietest(taken["step_one_by_one"]) * 1e3,
        "ratio": step / arithmetic,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    shape = loading.read_config(hub.resolve(DEFAULT_MODEL).folder)
    precision = fastest_precision(
        shape.intermediate_size,
        shape.hidden_size,
        int8=True,
        kernels=kernels.have_fastest_integers(),
    )
    model = in_precision(precision, depth=2)  # what else lies below has no part in a step
    figures = measure(model.classifier, model.encode(messages(400)), options.turns)
    print(
        f"a step: {figures['step_ms']:.1f} ms ({figures['step_one_by_one_ms']:.1f} operation by "
        f"operation); arithmetic alone ({figures['gflop']:.2f} GFLOP at "
        f"{figures['gflop_per_second']:.0f} GFLOP/s): {figures['arithmetic_ms']:.1f} ms; "
        f"ratio {figures['ratio']:.2f}"
    )
    write_results("training_step", figures)


if __name__ == "__main__":
    main()
