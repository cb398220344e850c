"""How much faster than transformers: its Trainer, and its text-classification pipeline.

Trainer: all but the last block frozen, dynamic padding, batches of 16, five epochs over questions
of TREC-6 (so many SMS messages where LASTBLOCK_DATA is not set). Two runs of few steps are timed,
and what a step more takes is multiplied; against it stands a whole fit of `auto`, from texts to
classifier, with nothing kept on disk. They take turns, and medians count. Pipeline: SMS messages,
as people call it, and sorted by length in batches of the size that is fastest; against it
``predict_proba``. All in one run, on transformers' side in float32 and where it is faster in
bfloat16, on ours as `auto` chooses.

    python benchmarks/transformers_speed.py [--texts N] [--messages N] [--turns N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rivals
import torch
from accuracy import draw, read
from common import messages, seconds_of, write_results

from lastblock import TextClassifier
from lastblock.data.balance import undersample
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.runtime import fastest_precision

EPOCHS, BATCH, STEPS = 5, 16, (4, 40)
SIZES = (8, 32)


def trainer_seconds(train: Examples, **settings: Any) -> float:
    """What five epochs of the Trainer take, from what some of its steps take."""
    taken = []
    for steps in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            run, _, _ = rivals.make_trainer(
                train, 1, folder, last_block=True, max_steps=steps, **settings
            )
            taken.append(seconds_of(run.train))
    a_step = (taken[1] - taken[0]) / (STEPS[1] - STEPS[0])
    return a_step * EPOCHS * -(-len(train) // BATCH)


def pipeline_seconds(texts: Sequence[str]) -> dict[str, float]:
    """Seconds of the pipeline over the texts: as it comes, and in sorted batches."""
    import transformers

    model, tokenizer = rivals.transformers_classifier(2, last_block=False)
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    ordered = sorted(texts, key=len)
    pipe(ordered[:8])
    found = {"as it comes": seconds_of(lambda: pipe(list(texts)))}
    for size in SIZES:
        found[f"sorted, {size}"] = seconds_of(lambda n=size: pipe(ordered, batch_size=n))
    if half_is_faster():
        pipe.model.to(torch.bfloat16)
        for size in SIZES:
            name = f"sorted, {size}, bfloat16"
            found[name] = seconds_of(lambda n=size: pipe(ordered, batch_size=n))
    return found


def half_is_faster() -> bool:
    """Whether bfloat16 is worth a try on transformers' side."""
    return fastest_precision(1536, 576, int8=False) == "bfloat16"


def training_seconds(train: Examples, turns: int, **settings: Any) -> dict[str, Any]:
    """Medians of both sides' seconds, and each turn's."""
    fits: list[float] = []
    trainer: dict[str, list[float]] = {"float32": []}
    if half_is_faster():
        trainer["bfloat16"] = []
    for _ in range(turns):
        classifier = TextClassifier(cache_size=0, **settings)
        fits.append(seconds_of(lambda c=classifier: c.fit(train.texts, train.labels)))
        for name, seconds in trainer.items():
            seconds.append(trainer_seconds(train, bf16=name == "bfloat16"))
    return {
        "auto_fit": statistics.median(fits),
        "trainer": {name: statistics.median(seconds) for name, seconds in trainer.items()},
        "turns": {"auto_fit": fits, **trainer},
        "precision": classifier.model_.settings.dtype,
    }


def measure(train: Examples, texts: Sequence[str], turns: int, **settings: Any) -> dict[str, Any]:
    """Seconds of both sides; messages are told apart by a classifier of the book's 1,494."""
    found = training_seconds(train, turns, **settings)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        TextClassifier(cache_size=0, **settings).fit(*_balanced_sms()).save(model)
        loaded = TextClassifier.load(model)  # which knows no activations of what it is to say
    found["predict_depth"] = loaded.model_.settings.depth
    loaded.predict_proba(texts[:8])
    found["predict"] = seconds_of(lambda: loaded.predict_proba(texts))
    found["pipeline"] = pipeline_seconds(texts)
    return found


def _balanced_sms() -> tuple[list[str], list[Any]]:
    """The book's 1,494 messages, and their labels."""
    examples = load_examples("sms-spam")
    balanced = examples.take(undersample(examples.labels, seed=123))
    return balanced.texts, list(balanced.labels)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2_000, help="to train on")
    parser.add_argument("--messages", type=int, default=300, help="to predict")
    parser.add_argument("--turns", type=int, default=3, help="of training, each side in each")
    given = parser.parse_args()
    folder = os.environ.get("LASTBLOCK_DATA")
    whole = read(Path(folder), "trec6", 100)[0] if folder else load_examples("sms-spam")
    found = measure(draw(whole, 1, total=given.texts), messages(given.messages), given.turns)
    plain, best = found["pipeline"]["as it comes"], min(found["pipeline"].values())
    ours = found["predict"]
    for name, seconds in found["trainer"].items():
        print(
            f"Trainer in {name} {seconds:.0f} s, auto ({found['precision']}) "
            f"{found['auto_fit']:.0f} s: {seconds / found['auto_fit']:.1f} times"
        )
    print(
        f"pipeline {plain:.1f} s as it comes, {best:.1f} s at best, predict {ours:.1f} s: "
        f"{plain / ours:.1f} and {best / ours:.1f} times"
    )
    write_results("transformers_speed", {"options": vars(given), **found})


if __name__ == "__main__":
    main()
