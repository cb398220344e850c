"""What products of 8-bit integers cost in accuracy, and what they save, on sets in LASTBLOCK_DATA.

    python benchmarks/precision.py [--sets trec6 sst2 emotion] [--texts N] [--test N]
    python benchmarks/precision.py --states

Two questions, each answered in one run. A classifier learnt on float32 states is given int8 states
to judge the same test texts: how far do its probabilities move, and how many texts change sides?
And two classifiers that learn and judge, each with its own: how accurate are they, and on how many
texts is just one of them right? The frozen pass over some texts is timed in both, turn by turn.
With ``--states``, instead: how far the last token's states are from float32's after 8 and 20
blocks, median of 60 SMS messages, by how channels are divided; and what it adds to keep them in
bfloat16, as they are, or would take alone.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accuracy import SETS, draw, read
from common import in_precision, messages, seconds_of, write_results

from lastblock import TextClassifier
from lastblock.activations import ActivationStore
from lastblock.data.examples import Examples
from lastblock.decoder import channels, precision
from lastblock.decoder.decoder import Decoder
from lastblock.inference import TextModel
from lastblock.recipe import SAMPLE

TURNS = 3
AFTER = (8, 20)


def rounded(model: TextModel) -> TextModel:
    """The same classifier, its frozen blocks turned to 8-bit integers."""
    other = copy.deepcopy(model)
    sample = model.frame.around(model.tokenizer.encode_batch([SAMPLE])[0])
    other.classifier.set_prefix_precision("int8", torch.from_numpy(sample))
    return other


def frozen_pass(model: TextModel, texts: list[str]) -> float:
    """Seconds of the frozen pass over texts of which nothing is known yet."""
    sequences = model.encode(texts)
    store = ActivationStore()
    return seconds_of(lambda: store.fill(model.classifier, sequences))


def compare(train: Examples, test: Examples, seed: int, **settings: Any) -> dict[str, float]:
    """Both answers for one set, and the ratio of the passes' times."""
    made = {}
    for name in ("float32", "int8"):
        classifier = TextClassifier(dtype=name, random_state=seed, cache_size=0, **settings)
        made[name] = classifier.fit(train.texts, train.labels)
    exact, own = made["float32"].model_, made["int8"].model_
    truth = made["float32"].number(test.labels, test.texts)
    given = rounded(exact)
    said = {
        name: model.predict_proba(test.texts)
        for name, model in (("exact", exact), ("given", given), ("own", own))
    }
    right = {name: _right(p, truth) for name, p in said.items()}
    moved = np.abs(said["given"] - said["exact"]).max(axis=1)
    some = test.texts[:200]
    times = [(frozen_pass(exact, some), frozen_pass(given, some)) for _ in range(TURNS)]
    return {
        "test": len(test),
        "depth_float32": exact.settings.depth,
        "depth_int8": own.settings.depth,
        "moved_median": float(np.median(moved)),
        "moved_99": float(np.quantile(moved, 0.99)),
        "changed_sides": float(
            (said["given"].argmax(axis=1) != said["exact"].argmax(axis=1)).sum()
        ),
        "accuracy_float32": float(right["exact"].mean()),
        "accuracy_given_int8": float(right["given"].mean()),
        "accuracy_int8": float(right["own"].mean()),
        "just_float32_right": float((right["exact"] & ~right["own"]).sum()),
        "just_int8_right": float((right["own"] & ~right["exact"]).sum()),
        "times_faster": statistics.median(a / b for a, b in times),
    }


@torch.inference_mode()
def last_states(decoder: Decoder, sequences: list[torch.Tensor]) -> torch.Tensor:
    """The last token's states after each of ``AFTER`` blocks, (n, len(AFTER), C)."""
    found = []
    for ids in sequences:
        x, done = decoder.embed(ids.long()[None]), 0
        for depth in AFTER:
            x, done = decoder.run(x, done, depth), depth
            found.append(x[0, -1])
    return torch.stack(found).unflatten(0, (-1, len(AFTER)))


def state_errors(texts: list[str]) -> dict[str, list[float]]:
    """Median relative error after each of ``AFTER`` blocks, by how channels are divided."""
    model = in_precision("float32", AFTER[-1] + 1)
    sequences = [torch.from_numpy(ids) for ids in model.encode(texts)]
    exact = last_states(model.classifier.decoder, sequences)
    sample = torch.from_numpy(model.frame.around(model.tokenizer.encode_batch([SAMPLE])[0]))
    tokens = torch.randint(0, model.classifier.decoder.config.vocab_size, (len(sample),))
    ways = {"sentences": (sample, 0.5), "exponent 0.6": (sample, 0.6), "tokens": (tokens, 0.5)}
    divisors, found = channels._divisors, {}
    for way in ("not divided", *ways):
        decoder = in_precision("float32", AFTER[-1] + 1).classifier.decoder
        if way == "not divided":
            channels._divisors = lambda *layer: torch.ones_like(divisors(*layer))
        given, channels.SHARE = ways.get(way, ways["sentences"])
        precision.set_precision(decoder, AFTER[-1], "int8", given)
        channels.SHARE, channels._divisors = 0.5, divisors
        states = last_states(decoder, sequences)
        found[way] = _errors(states, exact)
        if way == "sentences":
            found["as bfloat16"] = _errors(states.bfloat16().float(), exact)
    found["bfloat16"] = _errors(exact.bfloat16().float(), exact)
    return found


def _errors(states: torch.Tensor, exact: torch.Tensor) -> list[float]:
    error = (states - exact).norm(dim=2) / exact.norm(dim=2)
    return error.median(dim=0).values.tolist()


def _right(
    probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = probabilities.argmax(axis=1) == truth
    return right


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["trec6", "sst2", "emotion"])
    parser.add_argument("--texts", type=int, default=1_000, help="to learn from")
    parser.add_argument("--test", type=int, default=2_000, help="test texts at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--states", action="store_true", help="errors of states alone")
    given = parser.parse_args()
    if given.states:
        errors = state_errors(messages(60))
        for way, of in errors.items():
            print(f"{way:<14}" + "".join(f"{error:>8.3f}" for error in of))
        write_results("precision_states", {"after": AFTER, "errors": errors})
        return
    if "LASTBLOCK_DATA" not in os.environ:
        sys.exit("LASTBLOCK_DATA is not set: it names the folder with the sets")
    found = {}
    for name in given.sets:
        examples, test = read(Path(os.environ["LASTBLOCK_DATA"]), name, given.test)
        drawn = draw(examples, given.seed, total=given.texts)
        found[name] = of = compare(drawn, test, given.seed)
        print(
            f"{name}, {of['test']:,} test texts\n"
            f"  learnt in float32, then given int8: probabilities move by {of['moved_median']:.3f} "
            f"(median), {of['moved_99']:.3f} (99 %); {of['changed_sides']:.0f} change sides; "
            f"accuracy {of['accuracy_float32']:.4f} -> {of['accuracy_given_int8']:.4f}\n"
            f"  learnt in each: float32 {of['accuracy_float32']:.4f}, int8 "
            f"{of['accuracy_int8']:.4f}; just one of them right on "
            f"{of['just_float32_right']:.0f} and {of['just_int8_right']:.0f}; depths "
            f"{of['depth_float32']:.0f} and {of['depth_int8']:.0f}\n"
            f"  frozen pass {of['times_faster']:.2f} times as fast",
            flush=True,
        )
    write_results("precision", {"options": vars(given), "sets": found})


if __name__ == "__main__":
    main()
