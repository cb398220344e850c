"""How much faster than the book's loop: the same decoder, weights and messages, in one run.

The loop is written as chapter 6 of "Build a Large Language Model (From Scratch)" has it: every
message padded to the longest, every block run at every step and every evaluation, float32, and
all of it by torch, as there: by none of our kernels in C. By default 40 training steps and 5
evaluation batches are timed and multiplied by how many of each the loop takes; ``--full`` runs it
whole. Against it stand ``lastblock train`` processes, with the weights converted beforehand, and
what their channels are divided by known (but in the first run on a machine): from data to saved
model, as they say themselves, and as a whole, with Python's start and all imports.

    python benchmarks/speed.py [--full] [--runs N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from common import own_cache, seconds_of, torch_alone, write_results
from torch import Tensor, nn

from lastblock.config import DEFAULT_MODEL
from lastblock.data.balance import undersample
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.data.split import shuffled_split
from lastblock.decoder import hub, loading
from lastblock.tokenization.tokenizer import Tokenizer

SEED, EPOCHS, BATCH, EVAL_STEPS, EVAL_BATCHES = 123, 5, 8, 50, 5
TIMED_STEPS, TIMED_EVALUATIONS = 40, 5


class BookClassifier(nn.Module):
    """The whole decoder with a two-output head, read at the last position."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.decoder = loading.load_decoder(folder)
        self.head = nn.Linear(self.decoder.config.hidden_size, 2)
        for parameter in self.decoder.parameters():
            parameter.requires_grad_(False)
        for module in (self.decoder.blocks[-1], self.decoder.norm):
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()
                parameter.requires_grad_(True)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(ids))[:, -1, :]
        return logits


@dataclass
class Part:
    """A split's token ids (n, T) and labels (n,)."""

    ids: Tensor
    labels: Tensor

    def batches(self, *, shuffle: bool) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.ids)) if shuffle else torch.arange(len(self.ids))
        chosen = list(order.split(BATCH))
        if shuffle and len(chosen[-1]) < BATCH:
            chosen.pop()
        return [(self.ids[rows], self.labels[rows]) for rows in chosen]


def book_parts(examples: Examples, tokenizer: Tokenizer) -> list[Part]:
    """Train, validation and test, padded to the longest training message."""
    balanced = examples.take(undersample(examples.labels, seed=SEED))
    split = shuffled_split(len(balanced), seed=SEED)
    encoded = tokenizer.encode_batch(balanced.texts)
    longest = max(len(encoded[i]) for i in split.train)
    parts = []
    for rows in (split.train, split.validation, split.test):
        ids = torch.full((len(rows), longest), tokenizer.end_of_text)
        for row, i in enumerate(rows):
            cut = torch.from_numpy(encoded[i][:longest])
            ids[row, : len(cut)] = cut
        labels = [int(balanced.labels[i] == "spam") for i in rows]
        parts.append(Part(ids, torch.tensor(labels)))
    return parts


@torch.no_grad()
def accuracy(model: BookClassifier, batches: list[tuple[Tensor, Tensor]]) -> float:
    model.eval()
    right = sum((model(ids).argmax(-1) == labels).sum().item() for ids, labels in batches)
    return right / sum(len(labels) for _, labels in batches)


def loop_counts(parts: list[Part]) -> tuple[int, int]:
    """Training steps, and evaluation batches: every 50 steps, every epoch, and at the end."""
    steps = EPOCHS * (len(parts[0].ids) // BATCH)
    during = 2 * EVAL_BATCHES * (-(-steps // EVAL_STEPS) + EPOCHS)
    final = sum(-(-len(part.ids) // BATCH) for part in parts)
    return steps, during + final


@torch_alone()
def loop_seconds(folder: Path, parts: list[Part], full: bool) -> float:
    """Seconds the book's loop takes: run whole, or timed in part and multiplied."""
    model = BookClassifier(folder)
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=5e-5, weight_decay=0.1
    )
    steps, evaluations = loop_counts(parts)
    train, validation = parts[0].batches(shuffle=True), parts[1].batches(shuffle=False)

    def some_steps(count: int) -> None:
        model.train()
        for i in range(count):
            ids, labels = train[i % len(train)]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(ids), labels).backward()
            optimizer.step()

    some_steps(2)  # warm
    if full:
        batches = validation * (evaluations // len(validation) + 1)
        return seconds_of(lambda: some_steps(steps)) + seconds_of(
            lambda: accuracy(model, batches[:evaluations])
        )
    step = seconds_of(lambda: some_steps(TIMED_STEPS)) / TIMED_STEPS
    evaluation = seconds_of(lambda: accuracy(model, validation[:TIMED_EVALUATIONS]))
    evaluation /= TIMED_EVALUATIONS
    print(
        f"book's loop: {step:.3f} s a step x {steps} + {evaluation:.3f} s an evaluation batch "
        f"x {evaluations} (timed {TIMED_STEPS} and {TIMED_EVALUATIONS}, multiplied)"
    )
    return step * steps + evaluation * evaluations


@dataclass
class Taken:
    """Wall-clock seconds of a ``lastblock train``: from data to saved model, and the process's."""

    model: float
    process: float


def train_seconds(arguments: list[str]) -> Taken:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lastblock", "train", "sms-spam"]
        command += ["-o", f"{folder}/model", *arguments]
        # No activations of an earlier run are found; writing them is part of the time.
        own = {**os.environ, "LASTBLOCK_CACHE": str(own_cache(Path(folder) / "cache"))}
        os.sync()  # what was written before is not to be flushed meanwhile
        start = time.perf_counter()
        done = subprocess.run(command, env=own, check=True, stdout=subprocess.PIPE, text=True)
        process = time.perf_counter() - start
    print(done.stdout, end="")
    said = re.search(r"^took +([\d.]+) s", done.stdout, re.MULTILINE)
    assert said is not None
    return Taken(float(said[1]), process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="run the book's loop whole")
    parser.add_argument("--runs", type=int, default=1, help="of all three, in turn; their medians")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    folder = hub.resolve(DEFAULT_MODEL).folder
    parts = book_parts(load_examples("sms-spam"), Tokenizer.from_pretrained(folder))
    seconds: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for recipe, more in (("chapter6", []), ("auto", ["--balance", "undersample"])):
            taken = train_seconds(["--recipe", recipe, *more])
            seconds.setdefault(f"{recipe}_model", []).append(taken.model)
            seconds.setdefault(recipe, []).append(taken.process)
        seconds.setdefault("loop", []).append(loop_seconds(folder, parts, options.full))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    loop = medians["loop"]
    ratios = {name: loop / each for name, each in medians.items() if name != "loop"}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    figures = {
        **{f"{name}_seconds": each for name, each in medians.items()},
        **{f"{name}_ratio": each for name, each in ratios.items()},
        "peak_megabytes": peak,
    }
    print(f"{'the book loop':<22}{loop:>10.1f} s")
    for name, ratio in ratios.items():
        recipe, _, part = name.partition("_")
        what = f"{recipe}, {'data to model' if part else 'whole process'}"
        print(f"{what:<22}{medians[name]:>10.1f} s{ratio:>8.1f} x")
    print(f"peak memory of a train process: {peak:,.0f} MB")
    write_results("speed", figures)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
