"""Where to cut, and how much mean states should count: rules compared on sets in LASTBLOCK_DATA.

    python benchmarks/depths.py [--sets trec6 emotion ...] [--numbers 8 32] [--seeds N]

Texts in `auto`'s prompt are taken up block by block. At every other depth the classifier's own
probe is fitted on so many examples a class and judged on test texts; nothing else is trained. Rules
see what `depth.py` sees: the probe's cross-validated accuracy on the same examples. Means over
seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accuracy import SETS, draw, read
from common import write_results
from torch import Tensor

from lastblock import probe as probes
from lastblock.classifier import mean_state
from lastblock.config import DEFAULT_MODEL
from lastblock.data.examples import Examples
from lastblock.decoder import hub, loading
from lastblock.decoder.decoder import Decoder
from lastblock.depth import Curve, candidates, summary_depths
from lastblock.probe import MEANS, fit_probe
from lastblock.recipe import PROMPT
from lastblock.tokenization.batching import TokenIds, pad, shared_batches
from lastblock.tokenization.tokenizer import Tokenizer

LONGEST = 128  # tokens of a text: these are comparisons, and pages would take an hour
Rule = Callable[[Curve], int]


def _best(curve: Curve) -> int:
    smooth = curve.smoothed()
    return curve.depths[smooth.index(max(smooth))]


def _middle(curve: Curve) -> int:
    smooth = curve.smoothed()
    least = max(smooth) - curve.standard_error
    running = [depth for depth, a in zip(curve.depths, smooth, strict=True) if a >= least]
    return running[len(running) // 2]


RULES: dict[str, Rule] = {
    "as shipped": Curve.chosen,
    "best": _best,
    "middle within a standard error": _middle,
    "always 22": lambda curve: 22,
}


@torch.inference_mode()
def states_of(decoder: Decoder, sequences: list[TokenIds]) -> tuple[Tensor, Tensor]:
    """Last token's states and mean states after each block, (depth, n, C) each."""
    shape = decoder.depth, len(sequences), decoder.config.hidden_size
    last, mean = torch.empty(shape), torch.empty(shape)
    for batch in shared_batches(sequences, 1024):
        ids, lengths = pad([sequences[i] for i in batch], pad_id=0)
        size, rows = torch.tensor(lengths), torch.from_numpy(batch)
        x = decoder.embed(torch.from_numpy(ids))
        for block in range(decoder.depth):
            x = decoder.run(x, block, block + 1)
            last[block, rows], mean[block, rows] = (
                x[torch.arange(len(x)), size - 1],
                mean_state(x, size),
            )
    return last, mean


def features(states: tuple[Tensor, Tensor], layers: int, depth: int) -> tuple[Tensor, int]:
    """What the classifier's probe sees where it is cut here, and how much of it are means."""
    last, mean = states
    means = [mean[at - 1] for at in summary_depths(layers, depth)]
    return torch.cat([*means, last[depth - 1]], 1), len(means) * last.shape[2]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    short = ["trec6", "emotion", "sst2", "bbc_news", "imdb"]
    parser.add_argument("--sets", nargs="+", choices=SETS, default=short)
    parser.add_argument("--numbers", nargs="+", type=int, default=[8, 32], help="examples a class")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--pool", type=int, default=700, help="texts that examples are drawn from")
    parser.add_argument("--test", type=int, default=400)
    given = parser.parse_args()
    if "LASTBLOCK_DATA" not in os.environ:
        sys.exit("LASTBLOCK_DATA is not set: it names the folder with the sets")
    folder = hub.resolve(DEFAULT_MODEL).folder
    layers = loading.read_config(folder).num_hidden_layers
    tokenizer, decoder = Tokenizer.from_pretrained(folder), loading.load_decoder(folder, depth=28)
    frame, found = tokenizer.frame(PROMPT), {}
    for name in given.sets:
        train, test = read(Path(os.environ["LASTBLOCK_DATA"]), name, given.test)
        pool = draw(train, 0, total=given.pool)
        texts = [*pool.texts, *test.texts]
        encoded = [frame.around(ids[:LONGEST]) for ids in tokenizer.encode_batch(texts)]
        states = states_of(decoder, encoded)
        for number in given.numbers:
            found[f"{name} {number}"] = of = judge(pool, test, states, layers, number, given.seeds)
            print(f"\n{name}, {number} a class")
            for what, scores in of.items():
                told = ", ".join(f"{key} {np.mean(values):.3f}" for key, values in scores.items())
                print(f"  {what}: {told}", flush=True)
    write_results("depths", {"options": vars(given), "accuracy": found})


def judge(
    pool: Examples,
    test: Examples,
    states: tuple[Tensor, Tensor],
    layers: int,
    number: int,
    seeds: int,
) -> dict[str, dict[str, list[float]]]:
    """Accuracies by depth, by rule, and by how much means count, one for each seed."""
    classes, numbers = np.unique(np.asarray(pool.labels), return_inverse=True)
    labels = torch.from_numpy(numbers)
    truth = torch.from_numpy(np.searchsorted(classes, np.asarray(test.labels)))
    where = {text: row for row, text in enumerate(pool.texts)}
    found: dict[str, dict[str, list[float]]] = {
        "depth": defaultdict(list),
        "rule": defaultdict(list),
        "means count, at 22": defaultdict(list),
    }

    def right(rows: Tensor, depth: int, shares: tuple[float, ...] = MEANS) -> float:
        x, means = features(states, layers, depth)
        probes.MEANS = shares
        probe = fit_probe(x[rows], labels[rows], means=means)
        said = x[len(pool) :] @ probe.weight.T + probe.bias
        return float((said.argmax(1) == truth).double().mean())

    for seed in range(seeds):
        drawn = draw(pool, seed, per_class=number).texts
        rows = torch.tensor([where[text] for text in drawn])
        curve, at = Curve(len(rows), layers), {}
        for depth in range(8, 29, 2):
            at[depth] = right(rows, depth)
            found["depth"][str(depth)].append(at[depth])
            if depth in candidates(layers, 1):
                seen = torch.cat([states[1][depth - 1, rows], states[0][depth - 1, rows]], 1)
                probe = fit_probe(seen, labels[rows], means=seen.shape[1] // 2)
                same = probe.out_of_fold.argmax(1) == labels[rows]
                curve.add(depth, float(same.double().mean()))
        for rule, choose in RULES.items():
            found["rule"][rule].append(at[choose(curve)])
        for share in MEANS:
            found["means count, at 22"][str(share)].append(right(rows, 22, (share,)))
        found["means count, at 22"]["cross-validated"].append(at[22])
    return found


if __name__ == "__main__":
    main()
