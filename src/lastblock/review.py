"""Which labels are probably wrong: what classifiers that have not learnt a text say of its label.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels", section 3): each class has its own threshold, the probability that rows of this
label have on average. Copies of a text add what they are labelled. Writes the doubtful rows for a
person to look at, and takes the corrections back; changes nothing by itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lastblock.config import NO_SEPARATOR, ReadOptions
from lastblock.crossvalidation import out_of_fold
from lastblock.data.cleaning import Change, write_table
from lastblock.data.examples import Examples, Label
from lastblock.data.inspection import check_trainable, normalise
from lastblock.data.near_duplicates import near_duplicate_groups
from lastblock.data.readers import read_table
from lastblock.data.table import named_column
from lastblock.errors import ConfigError, DataError
from lastblock.estimator import TextClassifier
from lastblock.runtime import Progress, Silent

COLUMNS = ("row", "text", "label", "suggested_label", "probability", "score", "correct_label")

Numbers = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Opinion:
    """What is thought of one row's label, the row counted from 1.

    ``probability`` is that of the label given; ``score`` is its share of it and that of the
    likeliest other label together, from 0 (surely wrong) to 1. ``doubtful`` rows are probable
    errors.
    """

    row: int
    text: str
    label: Label
    suggested: Label
    probability: float
    score: float
    doubtful: bool


def review(
    examples: Examples,
    classifier: TextClassifier,
    *,
    folds: int = 5,
    seed: int = 123,
    progress: Progress | None = None,
) -> list[Opinion]:
    """Every row's label judged by a clone of ``classifier`` that has not seen it, worst first.

    Near duplicates are in one fold, so that no copy of a text vouches for its own label.

    Raises:
        ConfigError: there are fewer different texts than folds, several labels a text, or a
            setting does not fit.
        DataError: the examples cannot be learnt from.
    """
    check_trainable(examples)
    if examples.separator is not None:
        raise ConfigError(
            f"{examples.source}: {examples.separator!r} joins several labels of a text; review is "
            f"for one label a text (--label-separator {NO_SEPARATOR}, if each is one as it stands)"
        )
    progress = progress or Silent()
    folded = [*map(normalise, examples.texts)]
    found = out_of_fold(
        classifier,
        examples.texts,
        examples.labels,
        folds=folds,
        seed=seed,
        groups=[near_duplicate_groups(folded).tolist()],
        progress=progress,
    )
    classes = found.classes.tolist()
    number = {label: i for i, label in enumerate(classes)}
    given = np.array([number[label] for label in examples.labels], np.int64)
    probabilities = ask_copies(found.probabilities, given, folded)
    suggested, score, doubtful = judge(probabilities, given)
    return [
        Opinion(
            int(row) + 1,
            examples.texts[row],
            examples.labels[row],
            classes[suggested[row]],
            float(probabilities[row, given[row]]),
            float(score[row]),
            bool(doubtful[row]),
        )
        for row in np.argsort(score, kind="stable")
    ]


def ask_copies(probabilities: Probabilities, given: Numbers, texts: Sequence[str]) -> Probabilities:
    """The probabilities (n, n_classes), with each other row of the same text as one more judge.

    A copy is sure of the label ``given`` (n,) to it; its word counts as much as the classifier's.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        rows_of[text].append(row)
    asked = probabilities.copy()
    for rows in rows_of.values():
        if len(rows) > 1:
            votes = np.bincount(given[rows], minlength=probabilities.shape[1]).astype(np.float64)
            asked[rows] += votes
            asked[rows, given[rows]] -= 1.0  # its own
            asked[rows] /= len(rows)
    return asked


def judge(
    probabilities: Probabilities, given: Numbers
) -> tuple[Numbers, Probabilities, npt.NDArray[np.bool_]]:
    """The likeliest other label (n,), the score of the label given (n,), and whether it is wrong.

    A label is held to be wrong where another reaches its own class's threshold and is likelier.

    Args:
        probabilities: of rows that were not learnt from, (n, n_classes).
        given: the labels' numbers (n,).
    """
    rows = np.arange(len(given))
    own = probabilities[rows, given]
    others = probabilities.copy()
    others[rows, given] = -1.0
    suggested = others.argmax(axis=1)
    counts = np.bincount(given, minlength=probabilities.shape[1])
    sums = np.bincount(given, weights=own, minlength=probabilities.shape[1])
    threshold = sums / np.maximum(counts, 1)
    score = own / np.maximum(own + others[rows, suggested], 1e-12)
    return suggested, score, (score < 0.5) & (others >= threshold).any(axis=1)


def write_review(opinions: Sequence[Opinion], path: Path) -> None:
    """Write rows to look at; the last column is left for the person who does.

    Raises:
        ConfigError: another suffix than .csv, .tsv or .jsonl. DataError: it cannot be written.
    """
    rows = (
        (o.row, o.text, o.label, o.suggested, f"{o.probability:.4f}", f"{o.score:.4f}", "")
        for o in opinions
    )
    write_table(path, COLUMNS, rows)


def apply_review(examples: Examples, path: Path) -> tuple[Examples, list[Change]]:
    """The examples with the labels that a person wrote into ``correct_label``, and each change.

    Rows where it was left empty, or that are not in the file, stay as they are.

    Raises:
        DataError: the file cannot be read or was made of other examples; a label is no class of
            theirs.
    """
    table = read_table(path, ReadOptions(), named=True)
    needed = ("row", "text", "correct_label")
    rows, texts, wanted_labels = (table.values(named_column(table, name, "")) for name in needed)
    known = {str(label): label for label in examples.labels}
    labels, changes = list(examples.labels), []
    for at, (written, text, wanted) in enumerate(zip(rows, texts, wanted_labels, strict=True)):
        name = str("" if wanted is None else wanted).strip()
        if not name:
            continue
        where = f"{path}, row {table.place(at)}"
        row = _row(written, len(examples), where) - 1
        if examples.texts[row].split() != str(text).split():  # a spreadsheet may change line ends
            raise DataError(
                f"{where}: row {row + 1} of {examples.source} holds another text; give the file "
                "that the review was made of"
            )
        if name not in known:
            classes = ", ".join(map(repr, list(Counter(known))[:20]))
            raise DataError(f"{where}: {name!r} is no class of {examples.source}; give {classes}")
        if known[name] != labels[row]:
            changes.append(Change(row + 1, "label", "review", str(labels[row]), name))
            labels[row] = known[name]
    return replace(examples, labels=labels), changes


def _row(written: object, rows: int, where: str) -> int:
    try:
        row = int(str(written))
    except ValueError:
        row = 0
    if not 1 <= row <= rows:
        raise DataError(f"{where}: {written!r} is no row of the examples, which are 1 to {rows:,}")
    return row
