"""The frozen pass against the machine's own matrix products, in float32 and in 8-bit integers.

Useful operations a second: those of the blocks' matrix products over real tokens; padding counts
for nothing, and attention, norms and the rest only as time. Against them stand torch's own float32
products of the same shapes, a hundred of each before every pass. Everything is timed turn by
turn in one run, and medians are told; page faults are all turns' together. With any MALLOC_
variable set, the C library is left alone.

    python benchmarks/frozen_pass.py [--texts N] [--depth N] [--turns N]
"""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Sequence

import torch
from common import block_shapes, in_precision, messages, products, seconds_of, write_results

from lastblock.activations import TOKEN_BUDGET, ActivationStore
from lastblock.classifier import SequenceClassifier
from lastblock.config import Precision
from lastblock.tokenization.batching import TokenIds

PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "bfloat16")
# Products of each shape before a pass: about as long as the pass goes on the quickest way.
EACH = 100


def measure(
    classifiers: dict[Precision, SequenceClassifier], sequences: Sequence[TokenIds], turns: int
) -> dict[str, float]:
    """Operations a second of each, and of float32 products alone."""
    exact = classifiers["float32"]
    shapes = block_shapes(exact, TOKEN_BUDGET)
    a_token = sum(2.0 * inner * columns for _, inner, columns in shapes) * exact.frozen_blocks
    operations = a_token * rows_run(exact, sequences)
    work, of_products = products(shapes)

    def multiply() -> None:
        for _ in range(EACH):
            for each in work:
                each()

    multiply()  # not counted: the first are slower
    rates: dict[str, list[float]] = {"products": [], **{name: [] for name in classifiers}}
    faults = dict.fromkeys(classifiers, 0)
    for _ in range(turns):
        for name, classifier in classifiers.items():
            rates["products"].append(EACH * of_products / seconds_of(multiply))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            taken = seconds_of(lambda c=classifier: ActivationStore().fill(c, sequences))
            rates[name].append(operations / taken)
            faults[name] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    medians = {name: statistics.median(of) for name, of in rates.items()}
    return medians | {f"faults_{name}": count for name, count in faults.items()}


def rows_run(classifier: SequenceClassifier, sequences: Sequence[TokenIds]) -> int:
    """Rows that a pass takes up through each block: what texts share is run once."""
    run: list[int] = []
    first = classifier.decoder.blocks[0]
    hook = first.register_forward_pre_hook(lambda _, given: run.append(given[0][..., 0].numel()))
    ActivationStore().fill(classifier, sequences)
    hook.remove()
    return sum(run)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "int8"])
    given = parser.parse_args()
    models = {name: in_precision(name, given.depth) for name in given.precisions}
    sequences = next(iter(models.values())).encode(messages(given.texts))
    classifiers = {name: model.classifier for name, model in models.items()}
    for classifier in classifiers.values():  # what is counted is run: what all begin with, too
        classifier.decoder.begin_with(torch.empty(0, dtype=torch.long))
    found = measure(classifiers, sequences, given.turns)
    for name in classifiers:
        share = found[name] / found["products"]
        print(
            f"{name:<10}{found[name] / 1e9:>8.0f} GFLOP/s, {share:.0%} of float32 products alone "
            f"({found['products'] / 1e9:.0f}); {found[f'faults_{name}']:,} page faults"
        )
    write_results("frozen_pass", found)


if __name__ == "__main__":
    main()
