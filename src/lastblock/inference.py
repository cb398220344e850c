"""TextModel: texts in, probabilities out; the one place that calls the model on texts.

Estimator, command line and server all end here. Knows label names; knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from lastblock.activations import ActivationStore, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.config import Settings
from lastblock.data.examples import Label
from lastblock.decision import UNSURE, Decision
from lastblock.errors import ConfigError
from lastblock.explanation import MOST_PAIRS, TOKEN_BUDGET, Explanation, Plan, make_plan
from lastblock.runtime import Progress
from lastblock.tokenization.batching import (
    Frame,
    TokenIds,
    count_windows,
    head_and_tail,
    windows,
)
from lastblock.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """The labels that a text is given, the likeliest first; none where it is ``unsure``.

    ``probability`` is the first label's; where none is given, the likeliest class's.
    """

    labels: list[Label]
    probability: float
    unsure: bool

    @property
    def label(self) -> Label | None:
        """The likeliest label given; "unsure"; or None where a text may have none, and has none."""
        return UNSURE if self.unsure else next(iter(self.labels), None)


@dataclass
class TextModel:
    """A tokenizer and a classifier that belong together, and the names of the classes.

    ``decision`` turns logits into probabilities, and those into labels. ``store`` holds
    activations known already (those of the training texts, after a fit).
    """

    tokenizer: Tokenizer
    classifier: SequenceClassifier
    classes: list[Label]
    settings: Settings
    store: ActivationStore = field(default_factory=ActivationStore)
    decision: Decision = field(default_factory=Decision)

    def __post_init__(self) -> None:
        self.classifier.decoder.begin_with(torch.from_numpy(self.frame.before))

    @cached_property
    def frame(self) -> Frame:
        """What the decoder reads around each text."""
        return self.tokenizer.frame(self.settings.prompt)

    @property
    def class_names(self) -> list[str]:
        """The classes as strings, for tables and files."""
        return [str(label) for label in self.classes]

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> list[TokenIds]:
        """Token ids as the settings want them; see ``encode``."""
        encoded = self.tokenizer.encode_batch(texts)
        return encode(encoded, self.settings, self.frame, progress)

    def fit_length(self, ids: TokenIds) -> TokenIds:
        """The same token ids, cut and filled as the settings say."""
        return fit_length(ids, self.settings, self.frame)

    def predict_proba(
        self, texts: Sequence[str], progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes), float64, columns in the order of ``classes``."""
        if len(texts) == 0:
            return np.empty((0, len(self.classes)))
        return self.probabilities(self.encode(texts, progress), progress)

    def probabilities(
        self, sequences: Sequence[TokenIds], progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """The same, from token ids."""
        return self.decision.probabilities(self.logits(sequences, progress))

    def answers(self, probabilities: npt.NDArray[np.float64]) -> list[Answer]:
        """What is said of each text, from its probabilities (n, n_classes)."""
        unsure, chosen = self.decision.unsure(probabilities), self.decision.chosen(probabilities)
        answers = []
        for row, given, is_unsure in zip(probabilities, chosen, unsure, strict=True):
            numbers = [] if is_unsure else sorted(np.flatnonzero(given), key=lambda i: -row[i])
            probability = float(row[numbers[0] if numbers else row.argmax()])
            answers.append(Answer([self.classes[i] for i in numbers], probability, bool(is_unsure)))
        return answers

    def prepare(self, sequences: Sequence[TokenIds], progress: Progress | None = None) -> None:
        """Put the activations of these texts into the store, as ``logits`` will ask for them."""
        self.store.fill(self.classifier, as_read(sequences, self.settings, self.frame), progress)

    def logits(
        self, sequences: Sequence[TokenIds], progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """What the classifier says (n, n_classes), float64, before any temperature.

        Where texts are read in windows, the mean over a text's windows.
        """
        if self.settings.long_text != "window":
            return self._logits(sequences, progress)
        parts, of = in_windows(sequences, self.settings, self.frame)
        return over_windows(self._logits(parts, progress), of)

    def _logits(
        self, sequences: Sequence[TokenIds], progress: Progress | None
    ) -> npt.NDArray[np.float64]:
        """Of token ids as the decoder reads them."""
        logits = run_tail(self.classifier, sequences, self.store, progress).double()
        lexicon = self.classifier.lexicon
        if lexicon is not None and not lexicon.silent:
            logits += lexicon.read(texts_of(sequences, self.tokenizer, self.frame))
        return logits.numpy()

    def explain(
        self, text: str, label: Label | None = None, *, budget: int = TOKEN_BUDGET
    ) -> Explanation:
        """What each token and word of a text adds to the log-odds of ``label``.

        The label that the text is given is explained if none is named, the likeliest of several.
        About ``budget`` tokens are read; what ``explanation`` says of its method holds.

        Raises:
            ConfigError: there is no such class.
            DataError: the text cannot be used.
        """
        number = None if label is None else self.class_number(label)
        plan, sequences = self.plan_explanation(text, budget=budget)
        probabilities = self.probabilities(sequences)
        if number is None:
            number = self.foremost(probabilities[plan.everything])
        return plan.explain(
            probabilities, number, self.classes[number], several=self.decision.multilabel
        )

    def foremost(self, probabilities: npt.NDArray[np.float64]) -> int:
        """The column of the likeliest label that a text is given, or else of the likeliest class.

        ``probabilities`` (n_classes,) are the text's.
        """
        chosen = self.decision.chosen(probabilities[None])[0]
        return int(np.where(chosen, probabilities + 1, probabilities).argmax())

    def plan_explanation(
        self, text: str, *, budget: int = TOKEN_BUDGET, most_pairs: int = MOST_PAIRS
    ) -> tuple[Plan, list[TokenIds]]:
        """What to leave out of a text to explain it, and the token ids that are left each time."""
        ids, spans = self.tokenizer.encode_with_spans(text)
        longest = self.settings.max_length
        # A prompt, or padding to one length, is read besides, each time.
        budget = budget * len(ids[:longest]) // max(1, len(self.fit_length(ids[:longest])))
        plan = make_plan(text, spans[:longest], budget=budget, most_pairs=most_pairs)
        return plan, [self.fit_length(ids[:longest][kept]) for kept in plan.kept]

    def class_number(self, label: Label) -> int:
        """The column of a class, given by itself or as text.

        Raises:
            ConfigError: there is no such class.
        """
        for number, name in enumerate(self.classes):
            if label in (name, str(name)):
                return number
        known = ", ".join(self.class_names[:20])
        raise ConfigError(f"label {label!r} is no class of this model; known: {known}")


def encode(
    encoded: Sequence[TokenIds],
    settings: Settings,
    frame: Frame,
    progress: Progress | None = None,
) -> list[TokenIds]:
    """Texts' token ids as a classifier with these settings wants them: cut, filled, never empty.

    How many were cut, or what reading them whole costs, is said to ``progress``.
    """
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    longest = settings.max_length
    cut = int((lengths > longest).sum())
    if cut and progress is not None:
        long = f"{cut:,} of {len(encoded):,} texts are longer than {longest:,} tokens"
        cost, cut_cost = _tokens_read(lengths, settings, frame)
        done = {
            "truncate": "were cut there (--max-length, --long-text)",
            "head-tail": "only their beginnings and ends are read",
            "window": f"read whole, in windows: {cost:,} tokens instead of {cut_cost:,}, "
            f"{cost / cut_cost:.1f} times the work",
        }[settings.long_text]
        progress.say(f"{long} and {done}" if done.startswith("were") else f"{long}; {done}")
    return [fit_length(ids, settings, frame) for ids in encoded]


def _tokens_read(
    lengths: npt.NDArray[np.int64], settings: Settings, frame: Frame
) -> tuple[int, int]:
    """Tokens read of texts of these lengths in windows, and were they cut instead.

    With what the prompt puts after each; what it puts before them is computed once for all.
    """
    longest = settings.max_length
    parts = count_windows(lengths, longest)
    own, own_if_cut = lengths, np.minimum(lengths, longest)
    if settings.pooling == "padded":
        own, own_if_cut = parts * longest, np.full_like(lengths, longest)
    after = len(frame.after)
    return int((own + parts * after).sum()), int((own_if_cut + after).sum())


def fit_length(ids: TokenIds, settings: Settings, frame: Frame) -> TokenIds:
    """Token ids, cut, put into the prompt and filled as the settings say.

    Those to be read in windows are left as they are, for ``in_windows``. With pooling "padded" each
    text, or window, is filled with the end-of-text token to ``max_length``, and the filling counts
    as text: the head reads its last position, as in the book.
    """
    length = settings.max_length
    ids = _filled(ids, settings, frame)
    if settings.long_text == "window":
        return ids
    if settings.long_text == "head-tail":
        return frame.around(head_and_tail(ids, length))
    return frame.around(ids[:length])


def _filled(ids: TokenIds, settings: Settings, frame: Frame) -> TokenIds:
    """Token ids, filled to the length that the pooling wants; never empty."""
    missing = (settings.max_length if settings.pooling == "padded" else 1) - len(ids)
    if missing <= 0:
        return ids
    return np.concatenate([ids, np.full(missing, frame.end_of_text, dtype=ids.dtype)])


def texts_of(sequences: Sequence[TokenIds], tokenizer: Tokenizer, frame: Frame) -> list[str]:
    """What the lexicon reads of texts whose token ids stand in the prompt: the texts alone."""
    return tokenizer.decode_batch([frame.inside(ids) for ids in sequences])


def over_windows(
    logits: npt.NDArray[np.float64], of: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The mean over each text's windows: (windows, k), and which text each is ``of`` -> (n, k)."""
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    total: npt.NDArray[np.float64] = np.add.reduceat(logits, starts)
    return total / np.bincount(of)[:, None]


def as_read(sequences: Sequence[TokenIds], settings: Settings, frame: Frame) -> Sequence[TokenIds]:
    """What the decoder is given of these texts: all their windows, if it reads in windows."""
    return (
        in_windows(sequences, settings, frame)[0] if settings.long_text == "window" else sequences
    )


def in_windows(
    sequences: Sequence[TokenIds], settings: Settings, frame: Frame
) -> tuple[list[TokenIds], npt.NDArray[np.int64]]:
    """The sequences' windows, one after the other, and the number of the sequence each is of.

    Each window is filled as a text is, and stands in the prompt.
    """
    parts = [windows(ids, settings.max_length) for ids in sequences]
    of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return [frame.around(_filled(part, settings, frame)) for each in parts for part in each], of
