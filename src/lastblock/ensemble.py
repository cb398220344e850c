"""WEIGH: how much tail and probe each count, from texts that neither has learnt from.

A tail tuned on few examples is often worse than a ridge regression on frozen mean states, and with
many it is better; together they are nearly always at least as good as the better one. How much
each counts is therefore measured, on the validation part where it is large enough, else by
cross-validation on the training part, which costs little as the activations are there already.

Knows activations and class numbers; no text, no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lastblock.activations import ActivationStore, run_summary, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.config import Settings
from lastblock.probe import SHARPNESS, cross_entropy, fit_probe, folds
from lastblock.runtime import Progress
from lastblock.tokenization.batching import TokenIds
from lastblock.training import Encoded, train_tail

# Texts below which a validation part says too little, and training texts up to which the tail can
# be trained a few times more instead.
FEW_VALIDATION_TEXTS, CROSS_VALIDATE_UP_TO = 100, 2_000
FOLDS = 3
SHARES = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class Mixture:
    """Factors of the tail's logits and of the probe's, and what they were measured on."""

    tail: float
    probe: float
    texts: int
    measured_on: str
    penalty: float

    @property
    def reason(self) -> str:
        """The same in a sentence."""
        share = self.probe / (self.tail + self.probe)
        return (
            f"The answer is {1 - share:.0%} the trained tail's and {share:.0%} a linear probe's of "
            f"the frozen states, as weighed on {self.texts:,} texts of the {self.measured_on}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "reason": self.reason}


def add_probe(
    classifier: SequenceClassifier,
    store: ActivationStore,
    train: Encoded,
    validation: Encoded | None,
    settings: Settings,
    untrained: dict[str, Tensor],
    progress: Progress,
) -> tuple[Mixture, Tensor | None]:
    """Fit the probe, weigh it against the trained tail, and put both into ``classifier``.

    ``store`` holds the activations of both parts; ``untrained`` is the tail before training. The
    second result is what the two say together of each training text when their weights were fitted
    without it, logits (n, n_classes); None where they were weighed on the validation part.
    """
    summary = run_summary(classifier, train.sequences, store)
    probe = fit_probe(summary, *train.tensors(), train.of, means=classifier.probed_means)
    if validation is not None and not cross_validates(train, validation):
        tail_says = run_tail(classifier, validation.sequences, store)
        summary = run_summary(classifier, validation.sequences, store)
        probe_says = summary @ probe.weight.T + probe.bias
        judged, measured_on = validation, "validation part"
    else:
        tail_says = _out_of_fold(classifier, store, train, settings, untrained, progress)
        probe_says = probe.out_of_fold
        judged, measured_on = train, f"training part ({FOLDS}-fold cross-validation)"
    tail, share = weigh(tail_says, probe_says, *judged.tensors())
    classifier.join(probe.weight, probe.bias, tail, share)
    mixture = Mixture(tail, share, judged.texts, measured_on, probe.penalty)
    return mixture, tail * tail_says + share * probe_says if judged is train else None


def cross_validates(train: Encoded, validation: Encoded | None) -> bool:
    """Whether training texts are used to weigh by, not the validation texts, if any."""
    if validation is None:
        return True
    return validation.texts < FEW_VALIDATION_TEXTS and train.texts <= CROSS_VALIDATE_UP_TO


def weigh(
    tail: Tensor, probe: Tensor, targets: Tensor, weights: Tensor | None = None
) -> tuple[float, float]:
    """The factors of two sets of logits (n, n_classes) whose sum has the least cross-entropy."""
    tried = (((1 - share) * sharp, share * sharp) for sharp in SHARPNESS for share in SHARES)
    return min(tried, key=lambda by: cross_entropy(by[0] * tail + by[1] * probe, targets, weights))


def _out_of_fold(
    classifier: SequenceClassifier,
    store: ActivationStore,
    train: Encoded,
    settings: Settings,
    untrained: dict[str, Tensor],
    progress: Progress,
) -> Tensor:
    """The tail's logits (n, n_classes) for each training text, trained without its fold."""
    trained = classifier.tail_state()
    # Nobody looks at these trainings' losses.
    settings = dataclasses.replace(settings, eval_steps=1_000_000_000, eval_texts=1)
    logits = torch.empty(len(train), classifier.head.out_features)
    for fit, held in folds(train.tensors()[0], FOLDS, train.of):
        classifier.load_tail_state(untrained)
        generator = torch.Generator().manual_seed(settings.seed)
        part = train.take(fit.numpy())
        train_tail(classifier, store, part, None, settings, generator, progress)
        held_out: Sequence[TokenIds] = [train.sequences[i] for i in held]
        logits[held] = run_tail(classifier, held_out, store)
    classifier.load_tail_state(trained)
    return logits
