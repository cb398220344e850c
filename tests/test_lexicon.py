"""The lexicon against scikit-learn's n-grams, TF-IDF and ridge regression."""

import zlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import FeatureUnion

from lastblock import lexicon, probe
from lastblock.lexicon import BUCKETS, WORD, Lexicon, count_ngrams
from lastblock.probe import NGRAM_PENALTIES, fit_lexicon, folds, lexicon_rows


def texts(n: int, seed: int = 0) -> list[str]:
    """Words of three letters, of an alphabet of six, so that they share letters."""
    random = np.random.default_rng(seed)
    words = ["".join(random.choice([*"abcdef"], 3)) for _ in range(30)]
    return [" ".join(random.choice(words, random.integers(1, 9))) + " !!" for _ in range(n)]


def dense(counted: lexicon.Ngrams, values: torch.Tensor) -> np.ndarray:
    rows = np.zeros((len(counted), BUCKETS))
    of = np.repeat(np.arange(len(counted)), counted.starts.diff().numpy())
    rows[of, counted.buckets.numpy()] = values.numpy()
    return rows


def vectorizer() -> FeatureUnion:
    """The same n-grams."""
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=WORD.pattern)
    letters = CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))
    return FeatureUnion([("w", words), ("l", letters)])


def test_n_grams_are_counted_as_scikit_learn_does() -> None:
    said = texts(50)
    wanted = vectorizer().fit_transform(said).toarray()
    found = dense(counted := count_ngrams(said), counted.counts)
    assert found.sum() == wanted.sum()
    # Up to the order of columns: hardly any of some hundred n-grams share one of 65,536 buckets.
    columns = {tuple(column) for column in wanted.T}
    missing = [column for column in columns if not (found.T[found.any(0)] == column).all(1).any()]
    assert len(missing) <= 4


@given(st.text("ab é東👍\u0301\ud83d.!\n\0", max_size=40))
def test_buckets_are_those_of_the_grams_themselves(text: str) -> None:
    """However they are found: saved models know them by these numbers."""

    def bucket(gram: str) -> int:
        return zlib.crc32(gram.encode("utf-8", "surrogatepass")) % BUCKETS

    text = text.lower()
    words = WORD.findall(text)
    grams = [f"w{gram}" for gram in (*words, *map(" ".join, pairwise(words)))]
    for word in (f" {word} " for word in text.split()):
        grams += [f"l{word[i : i + n]}" for n in range(2, 6) for i in range(len(word) - n + 1)]
    counted = count_ngrams([text])
    expected = Counter(map(bucket, grams))
    assert dict(zip(counted.buckets.tolist(), counted.counts.tolist(), strict=True)) == expected


def test_rows_are_tf_idf_as_scikit_learn_has_it() -> None:
    said = texts(40)
    counted, layer = count_ngrams(said), Lexicon(2)
    layer.learn_idf(counted)
    counts = dense(counted, counted.counts)
    wanted = TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()
    np.testing.assert_allclose(dense(counted, layer.rows(counted)), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_weights_are_those_of_scikit_learn_s_ridge(weighted: bool, several: bool) -> None:
    said = texts(60)
    counted, layer = count_ngrams(said), Lexicon(3)
    targets = torch.randint(0, 3, (60,))
    answers = torch.nn.functional.one_hot(targets, 3)
    weights = torch.rand(60).double() + 0.1 if weighted else None
    if several:
        targets, weights = answers, None if weights is None else weights[:, None]
    unseen = fit_lexicon(layer, counted, targets, weights)
    x, y = dense(counted, layer.rows(counted)), 2 * answers.numpy() - 1
    w = np.ones(60) if weights is None else weights.numpy().ravel() / weights.numpy().mean()
    y = y - (mean := (w[:, None] * y).mean(0))
    said_by = layer(counted).numpy()
    ways = [
        Ridge(alpha=alpha, fit_intercept=False).fit(x, y, sample_weight=w)
        for alpha in NGRAM_PENALTIES
    ]
    # All one sharpness, for the right one.
    ratios = [said_by / (way.predict(x) + mean) for way in ways]
    spreads = [np.abs(ratio / np.median(ratio) - 1).max() for ratio in ratios]
    assert min(spreads) < 0.01
    assert unseen.shape == (60, 3)
    right = ways[int(np.argmin(spreads))]
    for fit, held in folds(targets, 5):
        of = w[fit]
        part = 2 * answers.numpy()[fit] - 1
        centre = (of[:, None] * part).sum(0) / of.sum()
        alone = Ridge(alpha=right.alpha, fit_intercept=False).fit(x[fit], part - centre, of)
        expected = (alone.predict(x[held]) + centre) * np.median(ratios[int(np.argmin(spreads))])
        np.testing.assert_allclose(unseen[held], expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_many_texts_are_fitted_step_by_step_to_the_same(
    monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    said, targets = texts(200), torch.randint(0, 3, (200,))
    weights = torch.rand(200).double() if weighted else None
    counted, layers, unseen = count_ngrams(said), (Lexicon(3), Lexicon(3)), []
    for layer, most in zip(layers, (200, 199), strict=True):
        monkeypatch.setattr(probe, "MOST_EXACT", most)
        monkeypatch.setattr(probe, "FLAT", 1e-6)
        monkeypatch.setattr(probe, "NGRAM_PENALTIES", (0.3,))
        unseen.append(fit_lexicon(layer, counted, targets, weights))
    torch.testing.assert_close(*unseen, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layers[0].weight, layers[1].weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layers[0].bias, layers[1].bias)


@pytest.mark.parametrize("columns", [2, 6, 9, 100])
def test_folds_side_by_side_come_to_what_each_comes_to_alone(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    said, targets = texts(200), torch.randint(0, 3, (200,))
    counted, layers, unseen = count_ngrams(said), (Lexicon(3), Lexicon(3)), []
    monkeypatch.setattr(probe, "MOST_EXACT", 199)
    monkeypatch.setattr(probe, "FLAT", 1e-4)
    for layer, most in zip(layers, (1, columns), strict=True):
        monkeypatch.setattr(probe, "SIDE_BY_SIDE", most)
        unseen.append(fit_lexicon(layer, counted, targets))
    assert unseen[0].std() > 0.1
    torch.testing.assert_close(*unseen, rtol=1e-3, atol=1e-3)
    assert torch.equal(layers[0].weight, layers[1].weight)  # of all texts, one at a time as ever


def test_of_weights_for_each_label_the_mean_counts() -> None:
    said, targets = texts(50), torch.randint(0, 2, (50, 2))
    weights = torch.rand(50, 2).double() + 0.1
    layers = Lexicon(2), Lexicon(2)
    unseen = [
        fit_lexicon(layer, count_ngrams(said), targets, of)
        for layer, of in zip(layers, (weights, weights.mean(1)), strict=True)
    ]
    torch.testing.assert_close(layers[0].weight, layers[1].weight)
    torch.testing.assert_close(*unseen)


def test_a_class_that_is_not_among_those_learnt_from_is_never_said() -> None:
    said, targets = texts(40), torch.randint(0, 2, (40,))
    layer = Lexicon(4)
    unseen = fit_lexicon(layer, count_ngrams(said), targets)
    assert unseen.shape == (40, 4)
    assert set(layer(count_ngrams(said)).argmax(1).tolist()) <= {0, 1}


def test_of_many_texts_some_are_learnt_from_evenly() -> None:
    assert lexicon_rows(torch.zeros(100, dtype=torch.int64), 100).tolist() == list(range(100))
    targets = torch.from_numpy(
        np.random.default_rng().permutation(np.repeat([0, 1, 2], [900, 90, 10]))
    )
    rows = lexicon_rows(targets, 100)
    assert len(rows) == 100
    assert (np.diff(rows) > 0).all()
    counts = np.bincount(targets[rows], minlength=3)
    assert np.abs(counts - [90, 9, 1]).max() <= 1
    indicators = torch.randint(0, 2, (300, 5))
    assert len(lexicon_rows(indicators, 100)) == 100


def test_parts_of_a_text_are_learnt_from_together() -> None:
    of = np.repeat(np.arange(50) * 7, 3)
    rows = lexicon_rows(torch.randint(0, 2, (50,)).repeat_interleave(3), 60, of)
    assert len(rows) == 60
    assert set(np.bincount(of[rows])) == {0, 3}
    for longest in range(41):  # it is passed over, wherever it comes
        parts = np.ones(41, np.int64)
        parts[longest] = 200
        uneven = np.repeat(np.arange(41), parts)
        rows = lexicon_rows(torch.zeros(240, dtype=torch.int64), 60, uneven)
        assert np.unique(uneven[rows]).tolist() == [i for i in range(41) if i != longest]
    alone = lexicon_rows(torch.zeros(200, dtype=torch.int64), 60, np.repeat([0, 1], 100))
    assert len(alone) == 60  # no text fits


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_what_is_said_of_a_text_does_not_depend_on_the_others(said: list[str]) -> None:
    layer = Lexicon(3)
    layer.learn_idf(count_ngrams(said))
    with torch.no_grad():
        layer.weight.normal_()
    together = layer(count_ngrams(said))
    assert torch.isfinite(together).all()
    assert torch.equal(layer.read(said), together)
    for text, row in zip(said, together, strict=True):
        assert torch.equal(layer(count_ngrams([text]))[0], row)


def test_nothing_is_said_of_nothing() -> None:
    assert Lexicon(2)(count_ngrams([])).shape == (0, 2)
    assert Lexicon(2).read([]).shape == (0, 2)
    assert len(count_ngrams(["", " "]).counts) == 0
