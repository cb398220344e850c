"""What the book's procedure reaches on the default decoder, by seed, learning rate and pooling.

The seed draws the messages, the split, the head and the order of the batches, as in a run of
``lastblock train sms-spam --recipe chapter6 --seed N``, whose figures these are. The frozen pass
is made once for each seed and pooling. About two minutes for a seed.

    python benchmarks/chapter6.py [--seeds N ...] [--rates X ...] [--pooling padded last]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lastblock import recipe
from lastblock.activations import ActivationStore
from lastblock.classifier import SequenceClassifier
from lastblock.config import DEFAULT_MODEL, ModelConfig, Settings, TrainConfig
from lastblock.data.balance import undersample
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples
from lastblock.data.split import shuffled_split
from lastblock.decoder import catalog, hub, loading
from lastblock.inference import TextModel
from lastblock.runtime import Silent, seed_everything
from lastblock.tokenization.tokenizer import Tokenizer
from lastblock.training import Encoded, loss_and_accuracy, train_tail


def new_model(folder: Path, tokenizer: Tokenizer, settings: Settings) -> TextModel:
    """A classifier as it is before training; the head is drawn from torch's own generator."""
    pooling = "last" if settings.pooling == "padded" else settings.pooling
    classifier = SequenceClassifier(loading.load_decoder(folder), 2, pooling=pooling)
    classifier.set_prefix_precision(settings.dtype)
    return TextModel(tokenizer, classifier, ["ham", "spam"], settings)


def accuracies(
    folder: Path, parts: list[Examples], settings: Settings, store: ActivationStore
) -> list[float]:
    """Accuracy on train, validation and test after training as the settings say."""
    generator = seed_everything(settings.seed)
    model = new_model(folder, Tokenizer.from_pretrained(folder), settings)
    encoded = [
        Encoded(model.encode(p.texts), np.array([label == "spam" for label in p.labels], np.int64))
        for p in parts
    ]
    for part in encoded:
        store.fill(model.classifier, part.sequences)
    train, validation, _ = encoded
    train_tail(model.classifier, store, train, validation, settings, generator, Silent())
    return [loss_and_accuracy(model.classifier, store, part)[1] for part in encoded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[123])
    parser.add_argument("--rates", type=float, nargs="+")
    parser.add_argument("--pooling", nargs="+", default=["padded", "last"])
    options = parser.parse_args()
    folder = hub.resolve(DEFAULT_MODEL).folder
    shape, tokenizer = loading.read_config(folder), Tokenizer.from_pretrained(folder)
    rates = options.rates or [catalog.learning_rate(DEFAULT_MODEL, shape.model_type)]
    messages = load_examples("sms-spam")
    print("| pooling | seed | rate | train | validation | test |\n|---|---:|---:|---:|---:|---:|")
    for seed in options.seeds:
        balanced = messages.take(undersample(messages.labels, seed=seed))
        split = shuffled_split(len(balanced), seed=seed)
        parts = [balanced.take(rows) for rows in (split.train, split.validation, split.test)]
        lengths = [len(ids) for ids in tokenizer.encode_batch(parts[0].texts)]
        for pooling in options.pooling:
            store = ActivationStore()
            for rate in rates:
                model = ModelConfig(pooling=pooling)
                train = TrainConfig(recipe="chapter6", seed=seed, learning_rate=rate)
                settings = recipe.resolve(model, train, shape, lengths, rate)
                scores = accuracies(folder, parts, settings, store)
                cells = " | ".join(f"{score:.4f}" for score in scores)
                print(f"| {pooling} | {seed} | {rate:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
