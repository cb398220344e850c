"""WEIGH: how much tail, probe and lexicon each count, from texts that none has learnt from.

A tail tuned on few examples is often worse than a ridge regression on frozen mean states, and with
many it is better; words say what neither knows where the decoder hardly knows the language.
Together they are nearly always at least as good as the best one. How much each counts is therefore
measured, on the validation part where it is large enough, else by cross-validation on the training
part, which costs little as the activations are there already.

Knows activations, texts and class numbers; no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lastblock.activations import ActivationStore, run_summary, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.config import Settings
from lastblock.lexicon import Lexicon, count_ngrams
from lastblock.probe import SHARPNESS, cross_entropy, fit_lexicon, fit_probe, folds, lexicon_rows
from lastblock.runtime import Progress, seeded_generator
from lastblock.tokenization.batching import TokenIds
from lastblock.training import Encoded, train_tail

# Texts below which a validation part says too little, and training texts up to which the tail can
# be trained a few times more instead.
FEW_VALIDATION_TEXTS, CROSS_VALIDATE_UP_TO = 100, 2_000
FOLDS = 3
# Nats by which all texts together must be likelier before the lexicon counts at all: one for each
# number that is fitted besides (Akaike 1974). Few texts are soon fitted by words that mean nothing.
LEAST_GAIN = 2.0
# Texts that a lexicon learns from, at least where there are so many and at most; their characters,
# each of which has some two n-grams that are held in memory; and classes times texts, as time
# grows with both.
LEAST_LEARNT, MOST_LEARNT, MOST_CHARACTERS, MOST_ANSWERS = 5_000, 50_000, 10_000_000, 2_500_000
SHARES = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class Mixture:
    """Factors of the logits of tail, probe and lexicon, and what they were measured on."""

    tail: float
    probe: float
    lexicon: float
    texts: int
    measured_on: str
    penalty: float

    @property
    def reason(self) -> str:
        """The same in a sentence."""
        total = self.tail + self.probe + self.lexicon
        parts = [
            f"{self.tail / total:.0%} the trained tail's",
            f"{self.probe / total:.0%} a linear probe's of the frozen states",
            *([f"{self.lexicon / total:.0%} the text's bare words'"] if self.lexicon else []),
        ]
        return (
            f"The answer is {', '.join(parts[:-1])} and {parts[-1]}, as weighed on {self.texts:,} "
            f"texts of the {self.measured_on}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "reason": self.reason}


@dataclass(frozen=True)
class Learnt:
    """A lexicon, the numbers of the texts it learnt from, and what it says of each of these.

    That is, logits (n, n_classes) when it was fitted without the text.
    """

    lexicon: Lexicon
    rows: npt.NDArray[np.int64]
    unseen: Tensor


def learn_words(train: Encoded, texts: Sequence[str], classes: int) -> Learnt:
    """Fit a lexicon to the ``train``ing part's texts, or to so many as there is time for."""
    lexicon = Lexicon(classes)
    rows = lexicon_rows(train.tensors()[0], _texts_to_learn(texts, classes), train.of)
    part, ngrams = train.take(rows), count_ngrams([texts[row] for row in rows])
    return Learnt(lexicon, rows, fit_lexicon(lexicon, ngrams, *part.tensors(), part.of))


def add_readers(
    classifier: SequenceClassifier,
    store: ActivationStore,
    train: Encoded,
    validation: Encoded | None,
    settings: Settings,
    untrained: dict[str, Tensor],
    progress: Progress,
    texts_of: Callable[[Sequence[TokenIds]], Sequence[str]],
    learnt: Callable[[], Learnt] | None,
) -> tuple[Mixture, Tensor | None]:
    """Fit probe and lexicon, weigh them and the trained tail, and put all into ``classifier``.

    ``store`` holds the activations of both parts; ``untrained`` is the tail before training;
    ``texts_of`` gives texts by their token ids; ``learnt`` waits for ``learn_words``, where a
    lexicon is to join if it is worth it. The second result is what all say together of each
    training text when their weights were fitted without it, logits (n, n_classes); None where they
    were weighed on the validation part.
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
    said, words = tail * tail_says + share * probe_says, 0.0
    if learnt is not None:
        of = learnt()
        lexicon = of.lexicon
        if judged is train:
            words_say = torch.empty_like(said)
            words_say[of.rows] = of.unseen
            others = np.setdiff1d(np.arange(len(train)), of.rows)
            words_say[others] = lexicon.read(texts_of([train.sequences[row] for row in others]))
        else:
            words_say = lexicon.read(texts_of(judged.sequences))
        both, words = _if_worth_it(said, words_say, judged)
        said = both * said + words * words_say
        tail, share = both * tail, both * share
        if words:
            classifier.join_lexicon(lexicon, words)
    classifier.join(probe.weight, probe.bias, tail, share)
    mixture = Mixture(tail, share, words, judged.texts, measured_on, probe.penalty)
    return mixture, said if judged is train else None


def cross_validates(train: Encoded, validation: Encoded | None) -> bool:
    """Whether training texts are used to weigh by, not the validation texts, if any."""
    if validation is None:
        return True
    return validation.texts < FEW_VALIDATION_TEXTS and train.texts <= CROSS_VALIDATE_UP_TO


def _texts_to_learn(texts: Sequence[str], classes: int) -> int:
    """How many of these a lexicon learns from at most."""
    characters = max(1, sum(map(len, texts)))
    most = min(MOST_LEARNT, MOST_CHARACTERS * len(texts) // characters, MOST_ANSWERS // classes)
    return max(LEAST_LEARNT, most)


def weigh(
    one: Tensor, other: Tensor, targets: Tensor, weights: Tensor | None = None
) -> tuple[float, float]:
    """The factors of two sets of logits (n, n_classes) whose sum has the least cross-entropy."""
    tried = (((1 - share) * sharp, share * sharp) for sharp in SHARPNESS for share in SHARES)
    return min(tried, key=lambda by: cross_entropy(by[0] * one + by[1] * other, targets, weights))


def _if_worth_it(said: Tensor, words_say: Tensor, judged: Encoded) -> tuple[float, float]:
    """The factors of the two, as ``weigh`` has them; 1 and 0 where the second gains too little."""
    both, words = weigh(said, words_say, *judged.tensors())
    labels, weights = judged.tensors()
    answers = judged.texts * (labels.shape[1] if labels.dim() == 2 else 1)
    without = cross_entropy(said, labels, weights)
    gain = answers * (without - cross_entropy(both * said + words * words_say, labels, weights))
    return (both, words) if gain > LEAST_GAIN else (1.0, 0.0)


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
    settings = dataclasses.replace(settings, eval_steps=0, eval_texts=1)
    logits = torch.empty(len(train), classifier.head.out_features)
    for fit, held in folds(train.tensors()[0], FOLDS, train.of):
        classifier.load_tail_state(untrained)
        generator = seeded_generator(settings.seed)
        part = train.take(fit.numpy())
        train_tail(classifier, store, part, None, settings, generator, progress)
        held_out: Sequence[TokenIds] = [train.sequences[i] for i in held]
        logits[held] = run_tail(classifier, held_out, store)
    classifier.load_tail_state(trained)
    return logits
