"""TextModel: texts in, probabilities out; the one place that calls the model on texts.

Estimator, command line and server all end here. Knows label names; knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lastblock.activations import ActivationStore, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.config import Settings
from lastblock.data.examples import Label
from lastblock.decision import Decision
from lastblock.errors import ConfigError
from lastblock.explanation import MOST_PAIRS, TOKEN_BUDGET, Explanation, Plan, make_plan
from lastblock.runtime import Progress
from lastblock.tokenization.batching import TokenIds
from lastblock.tokenization.tokenizer import Tokenizer


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

    @property
    def class_names(self) -> list[str]:
        """The classes as strings, for tables and files."""
        return [str(label) for label in self.classes]

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> list[TokenIds]:
        """Token ids as the classifier wants them: cut to ``max_length``, never empty.

        How many were cut is said to ``progress``. With pooling "padded" each is filled with the
        end-of-text token to ``max_length``, and the filling counts as text: the head reads its
        last position, as in the book.
        """
        encoded = self.tokenizer.encode_batch(texts)
        longest = self.settings.max_length
        cut = sum(len(ids) > longest for ids in encoded)
        if cut and progress is not None:
            progress.say(
                f"{cut:,} of {len(texts):,} texts are longer than {longest:,} tokens and were cut "
                "there (--max-length)"
            )
        return [self.fit_length(ids) for ids in encoded]

    def fit_length(self, ids: TokenIds) -> TokenIds:
        """The same token ids, cut and filled as ``encode`` says."""
        length = self.settings.max_length
        wanted = length if self.settings.pooling == "padded" else 1
        if len(ids) < wanted:
            filling = np.full(wanted - len(ids), self.tokenizer.end_of_text, dtype=ids.dtype)
            return np.concatenate([ids, filling])
        return np.ascontiguousarray(ids[:length])

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

    def logits(
        self, sequences: Sequence[TokenIds], progress: Progress | None = None
    ) -> npt.NDArray[np.float64]:
        """What the head says (n, n_classes), float64, before any temperature."""
        return run_tail(self.classifier, sequences, self.store, progress).double().numpy()

    def explain(
        self, text: str, label: Label | None = None, *, budget: int = TOKEN_BUDGET
    ) -> Explanation:
        """What each token and word of a text adds to the log-odds of ``label``.

        The likeliest class is explained if none is given. About ``budget`` tokens are read; what
        ``explanation`` says of its method holds.

        Raises:
            ConfigError: there is no such class.
            DataError: the text cannot be used.
        """
        number = None if label is None else self.class_number(label)
        plan, sequences = self.plan_explanation(text, budget=budget)
        probabilities = self.probabilities(sequences)
        if number is None:
            number = int(probabilities[plan.everything].argmax())
        return plan.explain(probabilities, number, self.classes[number])

    def plan_explanation(
        self, text: str, *, budget: int = TOKEN_BUDGET, most_pairs: int = MOST_PAIRS
    ) -> tuple[Plan, list[TokenIds]]:
        """What to leave out of a text to explain it, and the token ids that are left each time."""
        ids, spans = self.tokenizer.encode_with_spans(text)
        longest = self.settings.max_length
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
