"""The baseline of every run: TF-IDF and logistic regression, trained on the same texts.

What a fine-tuned decoder must beat to be worth its cost. Knows no decoder and no files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from lastblock.data.examples import WORD, Rows

# Weak regularisation suits rows of unit length; 3 to 30 give the same accuracy on our sets.
C = 10.0


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline for ``n_classes`` classes."""

    pipeline: Pipeline
    n_classes: int

    def predict_proba(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes), float64; 0 for a class that was absent in training."""
        probabilities = np.zeros((len(texts), self.n_classes))
        if len(texts):
            probabilities[:, self.pipeline.classes_] = self.pipeline.predict_proba(texts)
        return probabilities


def fit_baseline(
    texts: Sequence[str], label_ids: npt.ArrayLike, n_classes: int, seed: int
) -> Baseline:
    """Fit on texts (n,) and class numbers (n,), from 0 to ``n_classes`` - 1.

    Where a text may have several labels, ``label_ids`` says which it has, (n, n_classes).

    Features are TF-IDF with sublinear counts (1 + log tf) of words and pairs of words, and of the
    2 to 5 characters inside words. The classes' regressions are fitted one against the rest with
    liblinear's dual solver (Yu, Huang & Lin 2011): memory stays small with many classes.
    """
    labels = np.asarray(label_ids, dtype=np.int64)
    characters = make_pipeline(_CharacterCounts(), TfidfTransformer(sublinear_tf=True))
    words = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=WORD.pattern, sublinear_tf=True, dtype=np.float32
    )
    regression = LogisticRegression(
        C=C, solver="liblinear", dual=True, tol=0.01, max_iter=1000, random_state=seed
    )
    one_class = labels.ndim == 1 and len(np.unique(labels)) == 1
    pipeline = make_pipeline(
        FeatureUnion([("words", words), ("characters", characters)]),
        DummyClassifier(strategy="prior") if one_class else OneVsRestClassifier(regression),
    )
    with warnings.catch_warnings():
        # That all texts have a label, or none: then that is what is predicted, as it should be.
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        return Baseline(pipeline.fit(texts, labels), n_classes)


def out_of_fold_probabilities(
    texts: Sequence[str],
    label_ids: npt.ArrayLike,
    n_classes: int,
    seed: int,
    folds: Iterable[tuple[Rows, Rows]],
) -> npt.NDArray[np.float64]:
    """What a baseline says of each text that was fitted without its fold, (n, n_classes).

    ``folds`` are rows to fit on and rows held out, each row once; see ``data.split.folds``.
    """
    labels = np.asarray(label_ids, dtype=np.int64)
    said = np.zeros((len(texts), n_classes))
    for fit, held in folds:
        without = fit_baseline([texts[i] for i in fit], labels[fit], n_classes, seed)
        said[held] = without.predict_proba([texts[i] for i in held])
    return said


def baseline_says(
    texts: Sequence[str],
    label_ids: npt.ArrayLike,
    n_classes: int,
    seed: int,
    parts: Sequence[Sequence[str]],
    folds: Sequence[tuple[Rows, Rows]] = (),
) -> list[npt.NDArray[np.float64]]:
    """What a baseline says of each part that it is asked for, each (n, n_classes).

    And last, if there are ``folds``, of the texts it learns from, as ``out_of_fold_probabilities``
    has them.
    """
    said = []
    if parts:
        baseline = fit_baseline(texts, label_ids, n_classes, seed)
        said += [baseline.predict_proba(part) for part in parts]
    if folds:
        said.append(out_of_fold_probabilities(texts, label_ids, n_classes, seed, folds))
    return said


class _CharacterCounts(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Counts of the n-grams of 2 to 5 characters inside words.

    The same as ``CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))``, several times faster:
    n-grams are found once for each distinct word, and summed over a text's words by a product of
    sparse matrices, (n, words) × (words, n-grams).
    """

    def fit_transform(self, X: Sequence[str], y: Any = None) -> csr_array:
        counts, words = _count_words(X)
        self.ngrams_ = CountVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), lowercase=False, dtype=np.float32
        )
        return counts @ self.ngrams_.fit_transform(words)

    def transform(self, X: Sequence[str]) -> csr_array:
        counts, words = _count_words(X)
        return counts @ self.ngrams_.transform(words)


def _count_words(texts: Sequence[str]) -> tuple[csr_array, npt.NDArray[np.str_]]:
    """How often each text has each word, (n, words), and the words: all that is between spaces."""
    counter = CountVectorizer(analyzer=_words, dtype=np.float32)
    counts = counter.fit_transform(texts)
    return counts, counter.get_feature_names_out()


def _words(text: str) -> list[str]:
    # A blank text has one empty word, in which no n-gram is found.
    return text.lower().split() or [""]
