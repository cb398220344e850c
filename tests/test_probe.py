"""Probes against scikit-learn's ridge regression, on fresh random features."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from lastblock import probe
from lastblock.probe import (
    FOLDS,
    FOLDS_OF_MANY,
    MANY,
    PENALTIES,
    SHARPNESS,
    WORTH,
    Probe,
    _clearly_less,
    cross_entropy,
    fit_probe,
    folds,
)


def features(n: int, size: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features that say something about the class, of very different sizes."""
    targets = torch.randint(0, classes, (n,))
    means = torch.randn(classes, size)
    x = (means[targets] + 2 * torch.randn(n, size)) * torch.logspace(-2, 2, size)
    return x + 100, targets


SIZES = pytest.mark.parametrize(
    ("n", "size"),
    [(40, 90), (120, 15), (MANY, 450), (MANY, 15), (MANY - 1, 15)],
    ids=["dual", "primal", "many, dual", "many, primal", "nearly many"],
)


@SIZES
@pytest.mark.parametrize("weighted", [False, True])
def test_a_probe_is_a_sharpened_ridge_regression(n: int, size: int, weighted: bool) -> None:
    x, targets = features(n, size)
    weights = torch.rand(n) + 0.2 if weighted else None
    probe = fit_probe(x, targets, weights)
    w = np.ones(n) if weights is None else weights.double().numpy() / weights.mean().item()
    scaled = StandardScaler().fit(x.double().numpy(), sample_weight=w).transform(x.double().numpy())
    signed = 2 * np.eye(3)[targets.numpy()] - 1
    # scikit-learn centres the features that it is given; ours are centred already.
    ridge = Ridge(alpha=probe.penalty * size).fit(scaled, signed, sample_weight=w)
    logits = (x.double() @ probe.weight.double().T + probe.bias.double()).numpy()
    expected = ridge.predict(scaled)
    sharpness = (logits / expected).mean()
    assert min(abs(sharpness - s) for s in SHARPNESS) < 1e-3 * sharpness
    np.testing.assert_allclose(logits, sharpness * expected, rtol=1e-3, atol=1e-3)


@SIZES
def test_out_of_fold_logits_come_from_fits_without_the_fold(n: int, size: int) -> None:
    x, targets = features(n, size)
    probe = fit_probe(x, targets)
    scaled = StandardScaler().fit_transform(x.double().numpy())
    signed = 2 * np.eye(3)[targets.numpy()] - 1
    expected = np.empty((n, 3))
    for fit, held in folds(targets, FOLDS if n < MANY else FOLDS_OF_MANY):
        # The features keep the mean of all texts: no text's class is in it.
        ridge = Ridge(alpha=probe.penalty * size, fit_intercept=False)
        mean = signed[fit].mean(0)
        ridge.fit(scaled[fit], signed[fit] - mean)
        expected[held] = ridge.predict(scaled[held]) + mean
    sharpness = (probe.out_of_fold.numpy() / expected).mean()
    np.testing.assert_allclose(probe.out_of_fold, sharpness * expected, rtol=1e-3, atol=1e-3)


def test_several_labels_a_text() -> None:
    x, targets = features(80, 20)
    indicators = torch.nn.functional.one_hot(targets, 3)
    one, several = fit_probe(x, targets), fit_probe(x, indicators)
    assert one.penalty in PENALTIES
    assert several.weight.shape == (3, 20)
    assert ((several.out_of_fold > 0) == (indicators > 0)).float().mean() > 0.7


@pytest.mark.parametrize("counts", [[1, 1], [2, 9], [1, 1, 1, 30], [3, 3, 3], [6, 1]])
def test_every_text_is_left_out_once_whatever_the_classes(counts: list[int]) -> None:
    targets = torch.tensor([c for c, count in enumerate(counts) for _ in range(count)])
    left_out = torch.cat([held for _, held in folds(targets, 5)])
    assert sorted(left_out.tolist()) == list(range(len(targets)))
    fit_probe(torch.randn(len(targets), 4), targets)


def test_cross_entropy_is_that_of_targets_drawn_in() -> None:
    logits, targets = torch.randn(50, 4).double(), torch.randint(0, 4, (50,))
    weights = torch.rand(50).double()
    probabilities = torch.softmax(logits, 1).numpy()
    drawn_in = (np.eye(4)[targets.numpy()] * 50 + 1) / 54
    each = -(drawn_in * np.log(probabilities)).sum(1)
    assert cross_entropy(logits, targets) == pytest.approx(each.mean())
    assert cross_entropy(logits, targets, weights) == pytest.approx((weights.numpy() * each).mean())
    many = torch.randn(200_000, 2).double()
    labels = torch.randint(0, 2, (200_000,))
    plain = log_loss(labels, torch.softmax(many, 1).numpy())
    assert cross_entropy(many, labels) == pytest.approx(plain, rel=1e-4)


def test_one_text_is_enough_not_to_fail() -> None:
    probe = fit_probe(torch.randn(1, 4), torch.tensor([1]))
    assert torch.isfinite(probe.weight).all()


@pytest.mark.parametrize(("n", "size"), [(60, 90), (120, 15)], ids=["dual", "primal"])
def test_a_text_of_no_weight_is_as_good_as_absent(n: int, size: int) -> None:
    x, targets = features(n, size)
    weights = (torch.arange(n) % 3 > 0).double()
    other = x.clone()
    other[weights == 0] += 1000 * torch.randn(int((weights == 0).sum()), size)
    found = [fit_probe(some, targets, weights) for some in (x, other)]
    torch.testing.assert_close(found[0].weight, found[1].weight, rtol=1e-4, atol=1e-6)
    assert torch.isfinite(found[0].out_of_fold).all()


def test_labels_whose_answers_are_weighed_have_regressions_of_their_own() -> None:
    x, targets = features(60, 10)
    indicators, weights = torch.nn.functional.one_hot(targets, 3), torch.rand(60, 3).double() + 0.1
    probe, known = fit_probe(x, indicators, weights), x.double().numpy()
    for i in range(3):
        w = weights[:, i].numpy() / weights[:, i].mean().item()
        mean = np.average(known, axis=0, weights=w)
        scale = np.sqrt(np.average((known - mean) ** 2, axis=0, weights=w))
        signed = 2 * indicators[:, i].numpy() - 1.0
        of_label = fit_probe(x, indicators[:, [i]], weights[:, [i]])
        ridge = Ridge(alpha=of_label.penalty * 10, fit_intercept=False)
        ridge.fit((known - mean) / scale, signed - np.average(signed, weights=w), w)
        sharpness = (probe.weight[i].numpy() * scale / ridge.coef_).mean()
        np.testing.assert_allclose(
            probe.weight[i].numpy() * scale, sharpness * ridge.coef_, rtol=1e-3, atol=1e-4
        )
    of_texts = fit_probe(x, indicators, weights[:, :1])
    torch.testing.assert_close(of_texts.weight, fit_probe(x, indicators, weights[:, 0]).weight)


def test_binary_cross_entropy_weighs_texts_or_answers() -> None:
    logits, has = torch.randn(50, 3).double(), torch.rand(50, 3) < 0.3
    drawn_in = (has.double() * 50 + 1) / 52
    each = -(drawn_in * logits.sigmoid().log() + (1 - drawn_in) * (-logits).sigmoid().log())
    for weights in (torch.rand(50, 1).double(), torch.rand(50, 3).double()):
        wanted = (weights * each).mean().item()
        assert cross_entropy(logits, has, weights) == pytest.approx(wanted)


@pytest.mark.parametrize("several", [False, True])
def test_parts_of_a_text_stay_on_one_side(several: bool) -> None:
    rng = np.random.default_rng(torch.randint(0, 2**31, ()).item())
    of = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    numbers = torch.from_numpy(rng.integers(0, 3, 40))[torch.from_numpy(of)]
    targets = F.one_hot(numbers) if several else numbers
    out: list[int] = []
    for fit, held in folds(targets, 5, of):
        assert not set(of[fit.numpy()]) & set(of[held.numpy()])
        assert sorted([*fit.tolist(), *held.tolist()]) == [*range(len(of))]
        out += held.tolist()
    assert sorted(out) == [*range(len(of))]


def test_parts_that_are_alike_do_not_make_a_probe_look_good() -> None:
    """Features that name the text tell its other parts' class, and nothing of other texts."""
    of = np.repeat(np.arange(60), 4)
    features = torch.randn(60, 200)[torch.from_numpy(of)] + 0.01 * torch.randn(240, 200)
    targets = torch.randint(0, 2, (60,))[torch.from_numpy(of)]

    def right(probe: Probe) -> float:
        return float((probe.out_of_fold.argmax(1) == targets).double().mean())

    assert right(fit_probe(features, targets)) > 0.95
    assert right(fit_probe(features, targets, of=of)) < 0.75


@pytest.mark.parametrize("n", [3, 40, 400])
def test_means_count_more_where_the_errors_are_smaller_by_a_standard_error(n: int) -> None:
    """A paired t of more than one, as SciPy has it."""
    for shift in (-0.3, 0.0, 0.05, 0.1, 0.3):
        than = torch.rand(n, dtype=torch.double)
        errors = than - shift + 0.3 * torch.randn(n, dtype=torch.double)
        t = ttest_rel(than.numpy(), errors.numpy()).statistic
        assert _clearly_less(errors, than=than) == (t > WORTH)


def test_one_text_says_nothing_clear() -> None:
    assert not _clearly_less(torch.zeros(1), than=torch.ones(1))


def test_means_count_as_much_as_they_tell() -> None:
    """Where mean states tell nothing they are held down, and where they tell all, raised."""
    x, targets = features(90, 40)
    noise = torch.randn(90, 120)
    for means, both in ((120, torch.cat([noise, x], 1)), (40, torch.cat([x, noise], 1))):
        probe = fit_probe(both, targets, means=means)
        plain = fit_probe(both, targets)
        size = (probe.weight * both.std(0)).square().sum(0)
        before = (plain.weight * both.std(0)).square().sum(0)
        part = slice(None, 120) if means == 120 else slice(40, None)
        assert size[part].sum() / size.sum() < before[part].sum() / before.sum()
        fitted = both @ probe.weight.T + probe.bias
        assert (fitted.argmax(1) == targets).float().mean() > 0.9


@pytest.mark.parametrize("rank", [3, 60])
def test_texts_left_out_are_predicted_alike_in_float32(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Features that nearly depend on one another: what rounding could make unsolvable.
    alike = torch.randn(500, rank) @ torch.randn(rank, 200) + 1e-3 * torch.randn(500, 200)
    features, targets = 100 + 10 * alike, (alike[:, 0] > 0).long()
    quick = fit_probe(features, targets, means=120)
    monkeypatch.setattr(probe, "MOST_IN_FLOAT32", 0)
    exact = fit_probe(features, targets, means=120)
    assert quick.penalty == exact.penalty
    torch.testing.assert_close(quick.out_of_fold, exact.out_of_fold, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(quick.weight, exact.weight)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_folds_are_those_of_scikit_learn(k: int) -> None:
    """Of classes of any size, in any order; where none is large enough, at random."""
    for _ in range(50):
        n = int(torch.randint(k, 200, ()))
        targets = torch.randint(0, int(torch.randint(1, n, ())), (n,))
        strata = probe._strata(targets, k)
        of = KFold if strata is None else StratifiedKFold
        expected = of(k, shuffle=True, random_state=0).split(targets, strata)
        for ours, theirs in zip(folds(targets, k), expected, strict=True):
            assert [rows.tolist() for rows in ours] == [rows.tolist() for rows in theirs]
