"""What the book's procedure reaches on the default decoder, by seed, learning rate and pooling.

The seed draws the messages, the split, the head and the order of the batches, as in a run of
``lastblock train sms-spam --recipe chapter6 --seed N``, whose figures the first draw's are; in
further draws, of the same messages and split, the next seeds draw head and batches. The frozen pass
is made once for each seed, pooling and dtype, and kept on disk. About four minutes for a seed.

    python benchmarks/chapter6.py [--seeds N ...] [--rates X ...] [--pooling padded last]
                                  [--dtypes auto float32 int8] [--draws N]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import torch

from lastblock import recipe
from lastblock.activations import open_store
from lastblock.classifier import make_classifier
from lastblock.config import DEFAULT_MODEL, DType, ModelConfig, Pooling, Settings, TrainConfig
from lastblock.data.balance import undersample
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.data.split import shuffled_split
from lastblock.decoder import catalog, hub, loading
from lastblock.inference import TextModel
from lastblock.runtime import Silent, seed_everything
from lastblock.tokenization.tokenizer import Tokenizer
from lastblock.training import Encoded, loss_and_accuracy, train_tail


def new_model(folder: Path, settings: Settings) -> TextModel:
    """A classifier as it is before training; the head is drawn from torch's own generator."""
    tokenizer = Tokenizer.from_pretrained(folder)
    classifier = make_classifier(loading.load_decoder(folder), settings, 2)
    model = TextModel(tokenizer, classifier, ["ham", "spam"], settings)
    sample = model.frame.around(tokenizer.encode_batch([recipe.SAMPLE])[0])
    classifier.set_prefix_precision(settings.dtype, torch.from_numpy(sample))
    return model


def settings_for(
    files: hub.PretrainedFiles,
    train: Examples,
    pooling: Pooling,
    seed: int,
    rate: float,
    dtype: DType = "auto",
) -> Settings:
    """Every setting of the book's procedure on these training texts."""
    lengths = [
        len(ids) for ids in Tokenizer.from_pretrained(files.folder).encode_batch(train.texts)
    ]
    model = ModelConfig(pooling=pooling, dtype=dtype)
    wanted = TrainConfig(recipe="chapter6", seed=seed, learning_rate=rate)
    shape = loading.read_config(files.folder)
    return recipe.resolve(model, wanted, shape, lengths, rate, prompt_tokens=0)


def accuracies(
    files: hub.PretrainedFiles, parts: list[Examples], settings: Settings
) -> list[float]:
    """Accuracy on train, validation and test after training as the settings say."""
    generator = seed_everything(settings.seed)
    model = new_model(files.folder, settings)
    store = open_store(model.classifier.prefix_facts(), files, None)
    second = max(parts[0].labels)
    encoded = [
        Encoded(model.encode(p.texts), np.array([label == second for label in p.labels], np.int64))
        for p in parts
    ]
    for part in encoded:
        store.fill(model.classifier, part.sequences)
    train, validation, _ = encoded
    train_tail(model.classifier, store, train, validation, settings, generator, Silent())
    return [loss_and_accuracy(model.classifier, store, part)[1] for part in encoded]


def main() -> None:
    """Measure and print, a line a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[123])
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--pooling", nargs="+", default=["padded", "last"])
    parser.add_argument("--dtypes", nargs="+", default=["auto"])
    parser.add_argument("--draws", type=int, default=1)
    options = parser.parse_args()
    files = hub.resolve(DEFAULT_MODEL)
    kind = loading.read_config(files.folder).model_type
    rates = options.rates or [catalog.learning_rate(DEFAULT_MODEL, kind)]
    messages = load_examples("sms-spam")
    print("| dtype | pooling | seed | rate | draw | train | validation | test |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for seed in options.seeds:
        balanced = messages.take(undersample(messages.labels, seed=seed))
        split = shuffled_split(len(balanced), seed=seed)
        parts = [balanced.take(rows) for rows in (split.train, split.validation, split.test)]
        for dtype, pooling, rate in itertools.product(options.dtypes, options.pooling, rates):
            settings = settings_for(files, parts[0], pooling, seed, rate, dtype)
            for draw in range(options.draws):
                drawn = dataclasses.replace(settings, seed=seed + draw)
                scores = " | ".join(f"{score:.4f}" for score in accuracies(files, parts, drawn))
                run = f"{settings.dtype} | {pooling} | {seed} | {rate:g} | {draw + 1}"
                print(f"| {run} | {scores} |", flush=True)


if __name__ == "__main__":
    main()
