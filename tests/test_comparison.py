"""Comparisons agree with SciPy and scikit-learn, and their intervals cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import accuracy_score, f1_score
from tiny import messages

from lastblock.comparison import Difference, compare, compare_files, mcnemar, verdict
from lastblock.errors import DataError
from lastblock.estimator import TextClassifier


def _predictions(rng, n, k=3, right=0.7):
    truth = rng.integers(0, k, n)
    said = [np.where(rng.random(n) < right, truth, rng.integers(0, k, n)) for _ in range(2)]
    return truth, *said


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_scipys_binomial_test(only_a, only_b):
    n = only_a + only_b
    reference = binomtest(only_a, n, 0.5).pvalue if n else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(reference, rel=1e-9)


def test_mcnemar_of_many_texts():
    assert mcnemar(5_100, 4_900) == pytest.approx(binomtest(5_100, 10_000, 0.5).pvalue, rel=1e-9)


@pytest.mark.parametrize("k", [2, 3, 20])
def test_differences_are_scikit_learns(k):
    truth, a, b = _predictions(np.random.default_rng(k), 150, k)
    found = compare(truth, a, b, k)
    assert found.accuracy == pytest.approx(accuracy_score(truth, b) - accuracy_score(truth, a))
    f1 = [
        f1_score(truth, said, average="macro", labels=range(k), zero_division=0) for said in (a, b)
    ]
    assert found.macro_f1 == pytest.approx(f1[1] - f1[0])
    four = (found.both_right, found.only_a_right, found.only_b_right, found.both_wrong)
    assert sum(four) == found.n == 150
    assert found.only_b_right - found.only_a_right == pytest.approx(150 * found.accuracy)


def test_the_interval_is_scipys_paired_bootstrap():
    truth, a, b = _predictions(np.random.default_rng(4), 400)
    found = compare(truth, a, b, 3)
    reference = bootstrap(
        ((b == truth).astype(float), (a == truth).astype(float)),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=4_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.accuracy_ci95 == pytest.approx(tuple(reference), abs=0.01)


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    # Of the texts of either class a has 70 % right and b 80 %, so their true macro F1 is that too.
    held = np.zeros(2)
    for seed in range(1000):
        truth = rng.integers(0, 2, 300)
        a, b = (np.where(rng.random(300) < p, truth, 1 - truth) for p in (0.7, 0.8))
        found = compare(truth, a, b, 2, seed=seed)
        held += [low <= 0.1 <= high for low, high in (found.accuracy_ci95, found.macro_f1_ci95)]
    assert (held >= 930).all()
    assert (held <= 970).all()


def test_a_model_compared_with_itself_is_no_different():
    truth, a, _ = _predictions(np.random.default_rng(2), 50)
    found = compare(truth, a, a, 3)
    assert (found.accuracy, found.accuracy_ci95, found.p_value) == (0, (0, 0), 1)
    assert "nothing to tell them apart" in verdict(found)


@pytest.mark.parametrize(
    ("only_a", "only_b", "words"),
    [(1, 12, "b is better: a alone is right on 1, b"), (12, 1, "a is better"), (3, 5, "No clear")],
)
def test_the_verdict(only_a, only_b, words):
    p = mcnemar(only_a, only_b)
    found = Difference(99, 70, only_a, only_b, 16, p, 0.0, (0.0, 0.0), 0.0, (0.0, 0.0))
    assert words in verdict(found)


def test_no_texts_are_refused():
    none = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="no texts to compare"):
        compare(none, none, none, 2)


# -------------------------------------------------------------------------- with saved models


@pytest.fixture(scope="module")
def folders(pretrained, tmp_path_factory):
    """Two models: one that learnt, and one of three classes that did not."""
    folder = tmp_path_factory.mktemp("compared")
    texts, labels = messages(60)
    TextClassifier(str(pretrained), epochs=3).fit(texts, labels).save(folder / "good")
    third = [*labels[:-2], "eggs", "eggs"]
    # All blocks, so that no probe stands beside a tail that learnt nothing.
    bad = TextClassifier(str(pretrained), epochs=1, learning_rate=1e-9, train="all")
    bad.fit(texts, third).save(folder / "bad")
    return folder / "good", folder / "bad"


@pytest.fixture
def data(tmp_path):
    texts, labels = messages(30, seed=5)
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(map("{},{}\n".format, texts, labels)))
    return str(path), texts, labels


def test_two_models_on_a_file(folders, data):
    path, texts, labels = data
    found = compare_files(*folders, path)
    good, bad = (TextClassifier.load(folder).predict(texts) for folder in folders)
    assert found["a"]["accuracy"] == np.mean(good == labels)
    assert found["b"]["accuracy"] == np.mean(bad == labels)
    assert found["difference"]["accuracy"] == pytest.approx(
        np.mean(bad == labels) - np.mean(good == labels)
    )
    differ = {i + 1: (texts[i], labels[i], good[i], bad[i]) for i in np.flatnonzero(good != bad)}
    assert differ
    assert {
        d["row"]: (d["text"], d["label"], d["a"], d["b"]) for d in found["disagreements"]
    } == differ


def test_the_command_line(folders, data, tmp_path, capsys):
    import csv
    import json

    from lastblock.cli import run

    arguments = ["compare", *map(str, folders), data[0]]
    target = tmp_path / "differ.csv"
    assert run([*arguments, "-o", str(target)]) == 0
    out = capsys.readouterr().out
    for words in ("a (good)", "b (bad)", "b less a", "texts differently"):
        assert words in out
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [d["text"] for d in found["disagreements"]]
    assert run(["compare", str(folders[0]), "nowhere", data[0]]) == 2
    assert "nowhere: no such model folder" in capsys.readouterr().err
