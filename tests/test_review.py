"""Label review: planted errors come first; a person's corrections are put back, nothing else."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from tiny import messages

from lastblock import TextClassifier
from lastblock.crossvalidation import OutOfFold
from lastblock.data.examples import Examples
from lastblock.errors import ConfigError, DataError
from lastblock.review import (
    COLUMNS,
    Opinion,
    apply_review,
    ask_copies,
    judge,
    review,
    write_review,
)


def random_judgements(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n * 31 + n_classes)
    return rng.dirichlet(np.full(n_classes, 0.4), n), rng.integers(0, n_classes, n)


@given(st.integers(2, 60), st.integers(2, 6))
def test_labels_are_judged_as_confident_learning_says(n: int, n_classes: int) -> None:
    probabilities, labels = random_judgements(n, n_classes)
    suggested, score, doubtful = judge(probabilities, labels)
    for row in range(n):
        of_row = {k: probabilities[row, k] for k in range(n_classes)}
        own = of_row.pop(labels[row])
        best = max(of_row, key=lambda k: of_row[k])
        assert suggested[row] == best
        assert score[row] == pytest.approx(own / (own + of_row[best]))
        confident = []
        for k, p in of_row.items():
            mean = [probabilities[i, k] for i in range(n) if labels[i] == k]
            if p >= (sum(mean) / len(mean) if mean else 0.0) - 1e-15:
                confident.append(k)
        assert doubtful[row] == (bool(confident) and own < of_row[best])


def test_copies_of_a_text_are_asked() -> None:
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.1, 0.9]])
    asked = ask_copies(probabilities, np.array([0, 1, 1, 0]), ["a", "a", "a", "b"])
    twice = [1.6 / 3, 1.4 / 3]
    np.testing.assert_allclose(asked, [[0.2, 0.8], twice, twice, [0.1, 0.9]])
    np.testing.assert_allclose(asked.sum(axis=1), 1)


def words_out_of_fold(
    _: Any, texts: list[str], labels: list[Any], *, groups: Any, **__: Any
) -> OutOfFold:
    """Cross-validation of a classifier that takes no time."""
    classifier = make_pipeline(CountVectorizer(), LogisticRegression())
    cut = GroupKFold(3).split(texts, labels, groups[0])
    probabilities = cross_val_predict(classifier, texts, labels, cv=cut, method="predict_proba")
    classes, nobody = np.unique(labels), np.zeros(len(texts), np.int64)
    chosen = probabilities.argmax(axis=1)[:, None] == np.arange(len(classes))
    return OutOfFold(probabilities, chosen, nobody, classes, [])


@pytest.fixture(scope="module")
def planted() -> tuple[Examples, list[int], list[Opinion]]:
    """120 messages of which six bear the wrong label, and what a review says of them."""
    texts, labels = messages(120)
    wrong = [3, 20, 41, 66, 87, 110]
    for row in wrong:
        labels[row] = {"ham": "spam", "spam": "ham"}[labels[row]]
    examples = Examples(texts, list(labels), "here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lastblock.review.out_of_fold", words_out_of_fold)
        return examples, wrong, review(examples, TextClassifier())


def test_planted_errors_come_first(planted: tuple[Examples, list[int], list[Opinion]]) -> None:
    examples, wrong, opinions = planted
    assert sorted(opinion.row for opinion in opinions) == list(range(1, len(examples) + 1))
    first = opinions[: len(wrong)]
    assert sorted(opinion.row - 1 for opinion in first) == wrong
    assert sum(opinion.doubtful for opinion in first) >= len(wrong) / 2
    for opinion in first:
        assert opinion.suggested != opinion.label == examples.labels[opinion.row - 1]
    scores = [opinion.score for opinion in opinions]
    assert scores == sorted(scores)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_corrections_are_put_back(
    planted: tuple[Examples, list[int], list[Opinion]], tmp_path: Path, suffix: str
) -> None:
    examples, wrong, opinions = planted
    path = tmp_path / f"review{suffix}"
    write_review(opinions, path)
    unchanged, changes = apply_review(examples, path)
    assert (unchanged, changes) == (examples, [])
    lines = path.read_text(encoding="utf-8").split("\n")
    filled = 0
    for i, line in enumerate(lines):
        for row in wrong:
            right = {"ham": "spam", "spam": "ham"}[str(examples.labels[row])]
            start = f'{{"row": {row + 1},' if suffix == ".jsonl" else f'"{row + 1}"'
            if line.startswith(start):
                lines[i] = (
                    right.join(line.rsplit('""', 1))
                    if suffix != ".jsonl"
                    else (line.replace('"correct_label": ""', f'"correct_label": "{right}"'))
                )
                filled += 1
    assert filled == len(wrong)
    path.write_text("\n".join(lines), encoding="utf-8")
    corrected, changes = apply_review(examples, path)
    assert corrected.texts == examples.texts
    assert corrected.labels == messages(120)[1]
    assert sorted(change.row - 1 for change in changes) == wrong


def reviewed(path: Path, *rows: tuple[Any, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def test_whole_numbers_stay_whole_numbers(tmp_path: Path) -> None:
    examples = Examples(["a", "b\r\nc"], [0, 1], "here")
    path = reviewed(tmp_path / "r.csv", (2, "b\nc", 1, 0, 0.1, -0.8, " 0 "))
    assert apply_review(examples, path)[0].labels == [0, 0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((3, "a", "x", "y", 0, 0, "y"), r"r\.csv, row 1 \(line 2\): '3' is no row of the examples"),
        (("?", "a", "x", "y", 0, 0, "y"), "'[?]' is no row"),
        ((2, "a", "x", "y", 0, 0, "y"), "row 2 of here holds another text"),
        ((1, "a", "x", "y", 0, 0, "z"), "'z' is no class of here; give 'x', 'y'"),
    ],
)
def test_what_cannot_be_applied_is_refused(
    tmp_path: Path, row: tuple[Any, ...], words: str
) -> None:
    examples = Examples(["a", "b"], ["x", "y"], "here")
    with pytest.raises(DataError, match=words):
        apply_review(examples, reviewed(tmp_path / "r.csv", row))


def test_what_cannot_be_reviewed_is_refused(pretrained: Path, tmp_path: Path) -> None:
    one = Examples(["a", "b"], ["x", "x"], "here")
    with pytest.raises(DataError, match="only one class"):
        review(one, TextClassifier(str(pretrained)))
    with pytest.raises(ConfigError, match="ends in"):
        write_review([], tmp_path / "review.xlsx")
    (tmp_path / "r.csv").write_text("row,text,label\n1,a,x\n")
    with pytest.raises(DataError, match="no column 'correct_label'"):
        apply_review(one, tmp_path / "r.csv")
