"""TextClassifier: a ``Learner`` as a scikit-learn estimator.

To be put into its pipelines, grid searches and cross-validations, it has its parameters, tags and
score; what it learns and says is the learner's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score

from lastblock.learner import Learner, params_of
from lastblock.targets import read_targets


class TextClassifier(ClassifierMixin, Learner, BaseEstimator):  # type: ignore[misc]
    """A text classifier made from a pretrained decoder, as a scikit-learn estimator.

    Parameters that are None are chosen by the recipe; ``model_.settings`` holds what it chose.

    Args:
        model: a catalog name, a hub id, a folder or a .gguf file.
        recipe: "auto", or "chapter6" for the book's procedure.
        depth: blocks to keep.
        train: what is trained: "head", "block", "blocks:K", "lora" or "all".
        trainable_blocks: kept blocks to train, counted from the top.
        lora_rank: of the adapters, where train is "lora".
        pooling: "last", "mean", "first" or "padded".
        max_length: tokens a text is cut to.
        long_text: what is read of a longer one: "truncate", "head-tail" or "window".
        prompt: words that the decoder reads around each text, which stands for ``{text}``.
        lexicon: whether a text's bare words and letters have a say beside the decoder, as much as
            helps on texts not learnt from.
        weights: begin with those of the "pretrained" decoder, or with "random" ones.
        attention: "causal", or "full": a token sees those after it too. For full the pooling has
            to be "padded".
        dtype: of the frozen prefix: "auto", "float32", "bfloat16" or "int8"; bfloat16 also of a
            training step's products where no block is frozen.
        epochs: passes over the training texts.
        learning_rate: peak learning rate of AdamW.
        batch_size: texts in a step.
        weight_decay: of AdamW.
        cache_size: gigabytes on disk for activations, where later fits on the same texts find
            them; 0 for none. If None: LASTBLOCK_CACHE_SIZE, or 2.
        calibrate: whether probabilities are made as sure as they are right, by a temperature
            fitted on validation texts; ``predict`` says the same with and without.
        class_weight: "balanced", or a dict of what classes count in training (of several labels,
            of what having one counts, against not having it); a class that is not named counts 1.
        threshold: from which probability on the second of two classes, or each of several labels,
            is given: "f1", "precision=0.95", "recall=0.9" or "cost=FP:FN", chosen on texts not
            learnt from; or a number. None: the likelier class; of several labels "f1", or 0.5
            where there are too few texts to choose by.
        abstain_below: say "unsure" where the label is less probable than this.
        random_state: seed of everything drawn at random.

    Attributes:
        classes_: the labels (n_classes,), sorted, of the type they were given in.
        model_: the TextModel that predicts.
        history_: losses and accuracies seen while training.
        calibration_: the temperature that the validation texts ask for.
        choice_: how the depth was chosen, as in report.json; None where it was given.
        mixture_: how tail, probe and lexicon were weighed, likewise; None where there is no probe.
        initial_tail_: the tail's weights before training, by name.
        seconds_: time spent by step.

    Example:
        >>> clf = TextClassifier().fit(texts, labels)  # doctest: +SKIP
        >>> clf.predict(["Are we still on for dinner?"])  # doctest: +SKIP
        array(['ham'], dtype='<U4')
    """

    @classmethod
    def of(cls, learner: Learner) -> Self:
        """A learner as such an estimator: with its parameters, and what it has learnt."""
        classifier = cls.__new__(cls)
        classifier.__dict__.update(vars(learner))
        return classifier

    def score(
        self, X: Iterable[str], y: Iterable[Any], sample_weight: npt.ArrayLike | None = None
    ) -> float:
        """Share of texts whose label is right, or of several labels, all of them.

        What ``abstain_below`` would leave open counts too.
        """
        chosen = self.model_.decision.chosen(self.predict_proba(X))
        targets = read_targets(y).for_form(self.model_.decision.labels)
        if targets.form == "one":
            said = self.classes_[chosen.argmax(axis=1)]
            return float(accuracy_score(targets.labels, said, sample_weight=sample_weight))
        pairs = zip(targets.labels, chosen, strict=True)
        right = [set(of) == set(self.classes_[row].tolist()) for of, row in pairs]
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        return float(np.average(np.array(right, dtype=np.float64), weights=weights))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may know: X is one column of texts, not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.classifier_tags.multi_label = True
        return tags

    def resolved_params(self) -> dict[str, Any]:
        """This classifier's parameters, with what the recipe chose in place of None.

        But ``lexicon`` where there is one: whether it is worth it is for the texts to say.
        """
        self._check_fitted()
        return self.get_params() | params_of(self.model_.settings)
