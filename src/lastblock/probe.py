"""Probes: what a linear readout finds in frozen states, without training anything.

Ridge regression on class indicators has a closed form, so a probe costs next to nothing once the
states are there. Two uses: to choose the depth at which a decoder is cut, and to stand beside the
tail in the classifier (``SequenceClassifier.probe``): with few examples it is the better of the
two, with many it still knows things that the last token does not say. A lexicon's weights are
found likewise.

Knows states, n-grams and class numbers; no text, no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from statistics import median_low

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from lastblock.data.split import fold_rows
from lastblock.lexicon import BUCKETS, Lexicon, Ngrams, weighted_sums

# Ridge penalties tried, in units of the features' summed variance.
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# The same for n-grams, whose rows are of unit length. Up to so many texts they are solved for
# exactly, in time with the cube of that number; of more, step by step.
NGRAM_PENALTIES, MOST_EXACT = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 1_000
# Steps end where the slope is so small beside the targets, or after so many.
FLAT, MOST_STEPS = 0.1, 100
# Columns of several folds, a class each, that are solved for side by side.
SIDE_BY_SIDE = 64
# Common is an n-gram that more than one text in so many has.
COMMON = 16
# How much mean states may count beside the last token's: on topics more, on sentiment less.
MEANS = (0.25, 0.5, 1.0, 2.0)
# Standard errors by which it has to be better that they count more: a few texts cannot say.
WORTH = 1.0
# Folds; and from how many rows on fewer will do, as two thirds of so many say hardly less than four
# fifths (docs/experiments.md).
FOLDS, MANY, FOLDS_OF_MANY = 5, 600, 3
# Up to so many texts all is summed in float32, in half the time: rounding, which grows with them,
# is then far below the smallest penalty, and only that keeps a ridge solvable.
MOST_IN_FLOAT32 = 20_000
# Rows of features that are multiplied at a time, so that there are no copies of all of them.
_AT_ONCE = 4096
# Factors tried for turning a ridge's scores, which lie around -1 and 1, into logits.
SHARPNESS = tuple(2.0 ** (i / 2) for i in range(-2, 11))

Array = npt.NDArray[np.int64]
# What a penalty and a share of the mean states come to.
_Scores = Callable[[float, float], Tensor]
# Rows to fit on and rows held out.
_Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Probe:
    """A linear map from features to logits, and how it did on texts it was not fitted on.

    ``weight`` (n_classes, n_features) and ``bias`` (n_classes,) are for features as they come.
    ``out_of_fold`` (n, n_classes) are logits of each text from a fit without its fold.
    """

    weight: Tensor
    bias: Tensor
    out_of_fold: Tensor
    penalty: float


def fit_probe(
    features: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    of: Array | None = None,
    *,
    means: int = 0,
) -> Probe:
    """Fit a ridge regression on class indicators, its penalty chosen by cross-validation.

    Features are standardised first, and where some are mean states, these are multiplied by one of
    ``MEANS``: the smallest, unless more is clearly better. This is judged, and the penalty chosen,
    by the squared error on texts left out; larger multiples are tried as long as that falls. The
    scores are sharpened into logits by the factor that gives those texts the smallest cross-entropy
    (Hoerl & Kennard 1970; Platt 1999 for the scale).

    Args:
        features: (n, n_features).
        targets: class numbers (n,) int64, or indicators (n, n_classes) for several labels a text.
        weights: of each text, (n,) or (n, 1); or of each indicator, (n, n_classes).
        of: where rows are parts of longer texts, the number of each row's text, (n,).
        means: how many features, the first ones, are mean states, if not all.
    """
    if weights is not None and weights.dim() == 2 and weights.shape[1] > 1:
        return _fit_each(features, targets, weights, of)
    w, signed = _mean_one(weights, len(features)), _signed(targets)
    x, mean, scale = _standardised(features, w)

    parts = _parts(targets, of)
    dtype = torch.float32 if len(x) <= MOST_IN_FLOAT32 else torch.double
    dual = max((len(fitted_on) for fitted_on, _ in parts), default=0) <= x.shape[1]
    ridge = _Ridge(x, signed.to(dtype), w.to(dtype), means, dual)
    left_out = ridge.left_out(parts)
    kept: tuple[Tensor, float, int, float, Tensor] | None = None
    near, last = len(PENALTIES) // 2, math.inf
    for share in MEANS if means else (1.0,):
        unit = means * share**2 + x.shape[1] - means  # the features' summed variance
        judged = _judge(ridge.y, left_out, [penalty * unit for penalty in PENALTIES], share, w)
        # The next share's is hardly ever far from it.
        near = _lowest(judged, len(PENALTIES), near)
        scores, errors = judged(near)
        if errors.mean() > last:
            break  # once it gets worse, it goes on to
        last = float(errors.mean())
        if kept is None or _clearly_less(errors, than=kept[0]):
            kept = (errors, share, near, PENALTIES[near] * unit, scores)
    assert kept is not None
    _, share, i, penalty, scores = kept
    sharp = _sharpness(scores, targets, w)
    weight, bias = (found.double() for found in ridge.solve(penalty, share))
    weight = sharp * weight / scale[:, None]
    return Probe(
        weight=weight.T.float().contiguous(),
        bias=(sharp * bias - mean @ weight).float(),
        out_of_fold=(sharp * scores).float(),
        penalty=PENALTIES[i],
    )


def fit_lexicon(
    lexicon: Lexicon,
    ngrams: Ngrams,
    targets: Tensor,
    weights: Tensor | None = None,
    of: Array | None = None,
) -> Tensor:
    """Fit a lexicon to n texts, likewise; what it says of each when fitted without it, (n, k).

    Other arguments are as ``fit_probe`` has them; of a text's weights for k labels the mean counts.
    """
    lexicon.learn_idf(ngrams)
    parts = (lexicon.rows(ngrams).numpy(), ngrams.buckets.numpy(), ngrams.starts.numpy())
    x = csr_array(parts, shape=(len(ngrams), BUCKETS))
    several = weights is not None and weights.dim() == 2
    w = _mean_one(weights.mean(1) if several else weights, len(ngrams))  # type: ignore[union-attr]
    ridge = _Sparse(x, _signed(targets, len(lexicon.bias)).float(), w.float())
    judged = _judge(ridge.y, ridge.left_out(_parts(targets, of)), NGRAM_PENALTIES, 1.0, w)
    i = _lowest(judged, len(NGRAM_PENALTIES), len(NGRAM_PENALTIES) // 2)
    scores, _ = judged(i)
    sharp = _sharpness(scores, targets, w)
    with torch.no_grad():
        lexicon.weight.copy_(sharp * ridge.solve(NGRAM_PENALTIES[i]))
        lexicon.bias.copy_(sharp * ridge.mean)
    return sharp * scores


def lexicon_rows(targets: Tensor, most: int, of: Array | None = None) -> Array:
    """Rows for a lexicon to learn from: all, or ``most``, as evenly of all classes.

    Arguments are as ``fit_probe`` has them. Of a text's parts all are taken or none; a text that
    has too many for what is left is passed over.
    """
    n = len(targets)
    if n <= most:
        return np.arange(n)
    text = np.arange(n) if of is None else np.unique(of, return_inverse=True)[1]
    _, first, parts = np.unique(text, return_index=True, return_counts=True)
    by_class = np.arange(len(first))
    if targets.dim() == 1:
        by_class = np.argsort(targets.numpy()[first], kind="stable")
    # The fractions of multiples of the golden ratio: the lowest so many are evenly spread.
    order = by_class[np.argsort(np.arange(len(first)) * (5**0.5 - 1) / 2 % 1, kind="stable")]
    taken, room = [], most
    for i in order:
        if parts[i] <= room:
            taken.append(i)
            room -= parts[i]
    return np.flatnonzero(np.isin(text, taken or order))[:most]


def _products(x: csr_array) -> Tensor:
    """What n rows are to each other, (n, n) float32.

    Columns that many rows have are multiplied as a dense matrix, as sparse products take time with
    the square of how many have them.
    """
    n, columns = x.shape
    common = np.bincount(x.indices, minlength=columns) * COMMON > n
    dense, rare = torch.from_numpy(x[:, common].toarray()), x[:, ~common]
    return dense @ dense.T + torch.from_numpy((rare @ rare.T).toarray())


def _times(x: csr_array, dense: Tensor) -> Tensor:
    columns, starts, values = map(torch.from_numpy, (x.indices, x.indptr, x.data))
    return weighted_sums(columns, starts, values, dense)


def _standardised(features: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, n_features) less their mean, over their scale, float32; and both, float64."""
    n, rows = len(features), torch.arange(len(features)).split(_AT_ONCE)
    mean = _sum((w[part, None] * features[part]).sum(0) for part in rows) / n
    square = _sum((w[part, None] * (features[part] - mean) ** 2).sum(0) for part in rows) / n
    scale = square.sqrt().clamp_min(1e-6)
    x = torch.empty_like(features, dtype=torch.float32)
    for part in rows:
        x[part] = ((features[part] - mean) / scale).float()
    return x, mean, scale


def _mean_one(weights: Tensor | None, n: int) -> Tensor:
    """Weights (n,) or (n, 1) as float64 (n,) with a mean of 1; None is the same for all."""
    if weights is None:
        return torch.ones(n, dtype=torch.double)
    w = weights.reshape(n).double()
    return w / (w.mean() or 1.0)


def _signed(targets: Tensor, n_classes: int = -1) -> Tensor:
    """Class numbers (n,) or indicators (n, n_classes) -> 1 and -1, (n, n_classes), float64."""
    return 2 * (targets if targets.dim() == 2 else F.one_hot(targets, n_classes)).double() - 1


def _sharpness(scores: Tensor, targets: Tensor, w: Tensor) -> float:
    """The factor that makes logits of a ridge's scores, (n, n_classes)."""
    of_answers = w[:, None] if targets.dim() == 2 else w
    losses = [cross_entropy(scores * sharp, targets, of_answers) for sharp in SHARPNESS]
    return SHARPNESS[int(np.argmin(losses))]


def _judge(
    y: Tensor, left_out: _Scores, penalties: Sequence[float], share: float, w: Tensor
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """What says of the i-th penalty how texts left out are scored, and each one's error (n,)."""

    @cache
    def judged(i: int) -> tuple[Tensor, Tensor]:
        scores = left_out(penalties[i], share)
        return scores, (w[:, None] * (scores - y) ** 2).mean(1)

    return judged


def _in_turn(y: Tensor, parts: Sequence[_Part], without: Callable[..., _Scores]) -> _Scores:
    """What says, of a penalty and a share, the scores (n, n_classes) of all, fold after fold."""
    each = [(held, without(fitted_on, held)) for fitted_on, held in parts]

    def scores_of(penalty: float, share: float) -> Tensor:
        scores = torch.zeros_like(y)
        for held, of_these in each:
            scores[held] = of_these(penalty, share)
        return scores

    return scores_of


def _lowest(judged: Callable[[int], tuple[Tensor, Tensor]], n: int, near: int) -> int:
    """The one of n penalties with the least errors, downhill from ``near``.

    Errors fall and rise again; of 16 texts, not always (docs/experiments.md).
    """

    def height(i: int) -> float:
        return float(judged(i)[1].mean())

    numbers = range(n)
    for _ in numbers:
        near = min(numbers[max(0, near - 1) : near + 2], key=height)
    return near


def _clearly_less(errors: Tensor, than: Tensor) -> bool:
    """Whether the same texts' errors (n,) are smaller by ``WORTH`` standard errors."""
    less = than - errors
    # Multiplied out, so that a single text is no division by zero, and says nothing.
    return bool(math.sqrt(len(less) - 1) * less.mean() > WORTH * less.std(correction=0))


def _fit_each(features: Tensor, targets: Tensor, weights: Tensor, of: Array | None) -> Probe:
    """A probe whose labels each have a regression of their own, for weights of their own."""
    each = [
        fit_probe(features, *columns, of)
        for columns in zip(targets.split(1, dim=1), weights.split(1, dim=1), strict=True)
    ]
    return Probe(
        weight=torch.cat([probe.weight for probe in each]),
        bias=torch.cat([probe.bias for probe in each]),
        out_of_fold=torch.cat([probe.out_of_fold for probe in each], 1),
        penalty=median_low(probe.penalty for probe in each),
    )


def _parts(targets: Tensor, of: Array | None) -> list[_Part]:
    """The folds that penalties are judged on."""
    return folds(targets, FOLDS if len(targets) < MANY else FOLDS_OF_MANY, of)


def folds(targets: Tensor, k: int, of: Array | None = None) -> list[_Part]:
    """Rows to fit on and rows held out, of each fold; stratified as far as classes are large.

    Rows ``of`` the same text, (n,), stay on one side.
    """
    if of is not None:
        _, first, number = np.unique(of, return_index=True, return_inverse=True)
        text = torch.from_numpy(number)
        return [
            tuple(torch.isin(text, side).nonzero()[:, 0] for side in sides)  # type: ignore[misc]
            for sides in folds(targets[torch.from_numpy(first)], k)
        ]
    rows = np.arange(len(targets))
    if len(rows) < 2:
        return []  # nothing is left to fit on
    strata = _strata(targets, k)
    fold = _dealt(len(rows), min(k, len(rows))) if strata is None else _dealt_by_class(strata, k)
    sides = fold_rows(fold, int(fold.max()) + 1)
    return [(torch.from_numpy(fit), torch.from_numpy(held)) for fit, held in sides]


# To import scikit-learn would take a second, so these deal as its KFold and StratifiedKFold do with
# ``shuffle=True, random_state=0``; a test compares them.


def _dealt(n: int, k: int) -> Array:
    """The fold of each of n rows, of k as large as each other, at random."""
    fold = np.empty(n, np.int64)
    for i, rows in enumerate(np.array_split(np.random.RandomState(0).permutation(n), k)):
        fold[rows] = i
    return fold


def _dealt_by_class(numbers: Array, k: int) -> Array:
    """The fold of each row: those of a class, and then of the next one, go to each fold in turn."""
    drawn, fold, before = np.random.RandomState(0), np.empty(len(numbers), np.int64), 0
    for number in dict.fromkeys(numbers.tolist()):  # in the order in which classes appear
        rows = np.flatnonzero(numbers == number)
        turns = np.sort(np.arange(before, before + len(rows)) % k)
        drawn.shuffle(turns)
        fold[rows] = turns
        before += len(rows)
    return fold


def _strata(targets: Tensor, k: int) -> npt.NDArray[np.int64] | None:
    """Class numbers, those of classes with fewer than ``k`` texts made one of their own."""
    if targets.dim() == 2:
        return None
    numbers = targets.numpy()
    counts = np.bincount(numbers)
    if counts.max() < k:
        return None
    strata = np.where(counts[numbers] >= k, numbers, -1)
    if (strata == -1).sum() < k:
        strata = np.where(strata == -1, counts.argmax(), strata)
    return strata.astype(np.int64)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> float:
    """Weighted mean cross-entropy (nats); binary, over labels too, where ``targets`` are 2-D.

    ``weights``, with a mean of 1, are as ``Encoded`` has them.

    Targets are drawn in a little from 0 and 1, the more the fewer texts there are (Platt 1999,
    section 2.2): else a few texts that are told apart would ask for any certainty.
    """
    n, classes = logits.shape
    if targets.dim() == 2:
        drawn_in = (targets.to(logits.dtype) * n + 1) / (n + 2)
        each = F.binary_cross_entropy_with_logits(logits, drawn_in, reduction="none")
    else:
        smoothing = classes / (n + classes)
        each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return float(each.mean() if weights is None else (weights * each).mean())


class _Dual:
    """Weighted ridge regressions on subsets of the same rows, from what rows are to each other.

    ``products`` (n, n); those of some features, ``of_means``, may be multiplied by a share each
    time, and no product is computed again.
    """

    def __init__(self, products: Tensor, of_means: Tensor | None, y: Tensor, w: Tensor) -> None:
        self.y, self.root = y, w.sqrt()[:, None]
        self.products, self.of_means = products, of_means
        # What is left out of the penalty, the mean, is fitted by centring the targets.
        self.mean = (w[:, None] * y).mean(0)

    def left_out(self, parts: Sequence[_Part]) -> _Scores:
        """What says, of a penalty and a share, the scores (n, n_classes), each without its fold."""
        return _in_turn(self.y, parts, self._without)

    def _without(self, fitted_on: Tensor, held: Tensor) -> _Scores:
        root, mean, y = _centred(self.y, self.root, fitted_on)
        # Fitted rows first: what they are to each other and to those held out.
        order = torch.cat([fitted_on, held])
        n = len(fitted_on)

        def taken(of: Tensor) -> Tensor:
            return of.index_select(0, order).index_select(1, fitted_on).mul_(root.T)

        others = taken(self.products)
        of_means = None if self.of_means is None else taken(self.of_means)

        @lru_cache(1)
        def between(share: float) -> tuple[Tensor, Tensor]:
            both = _joined(others, of_means, share)
            return root * both[:n], both[n:]

        def from_rows(penalty: float, share: float) -> Tensor:
            fitted, held_out = between(share)
            return held_out @ _solve(fitted, penalty, y) + mean

        return from_rows

    def solve(self, penalty: float, share: float) -> Tensor:
        """What each row's features count, (n, n_classes), from all rows."""
        between = self.root * _joined(self.products, self.of_means, share) * self.root.T
        return self.root * _solve(between, penalty, self.root * (self.y - self.mean))


class _Sparse:
    """The same, of sparse rows x (n, columns): as ``_Dual`` has it of few, nearly so of many.

    Of more than ``MOST_EXACT``, what they are to each other is not computed: it is solved by
    conjugate gradients for least squares (Paige & Saunders 1982, "LSQR", section 7.1), for all
    columns of y side by side. A step takes time with the numbers in x; every one comes nearer, so
    that a solution that is left early is a ridge with a somewhat larger penalty.
    """

    def __init__(self, x: csr_array, y: Tensor, w: Tensor) -> None:
        self.x, self.transposed = x, x.T.tocsr()
        self.y, self.root = y, w.sqrt()[:, None]
        self.dual = _Dual(_products(x), None, y, w) if len(y) <= MOST_EXACT else None
        self.mean = (w[:, None] * y).mean(0)

    def left_out(self, parts: Sequence[_Part]) -> _Scores:
        """What says, of a penalty, the scores (n, n_classes), each without its fold."""
        if self.dual is not None:
            return self.dual.left_out(parts)
        n = max(1, SIDE_BY_SIDE // self.y.shape[1])
        together = [self._without(parts[i : i + n]) for i in range(0, len(parts), n)]
        return lambda penalty, share: torch.stack([of(penalty) for of in together]).sum(0)

    def _without(self, parts: Sequence[_Part]) -> Callable[[float], Tensor]:
        """The scores of those whom a few folds hold out, noughts for the others.

        The folds are solved side by side, a product for all: to read x takes longer than to
        multiply it. Rows held out are there, but count nothing: no part of x is copied.
        """
        n, k = self.y.shape
        roots, errors = self.y.new_zeros(n, len(parts), k), self.y.new_zeros(n, len(parts), k)
        means = []
        for i, (fitted_on, _) in enumerate(parts):
            roots[fitted_on, i], mean, errors[fitted_on, i] = _centred(self.y, self.root, fitted_on)
            means.append(mean)
        weight = self.y.new_zeros(self.x.shape[1], len(parts) * k)

        def from_columns(penalty: float) -> Tensor:
            # From the last penalty's weight it is not far to this one's.
            self._solve(weight, roots.flatten(1), penalty, errors.flatten(1))
            said = _times(self.x, weight).unflatten(1, (len(parts), k))
            scores = torch.zeros_like(self.y)
            for i, (_, held) in enumerate(parts):
                scores[held] = said[held, i] + means[i]
            return scores

        return from_columns

    def solve(self, penalty: float) -> Tensor:
        """Weight (columns, n_classes), from all rows."""
        if self.dual is not None:
            return _times(self.transposed, self.dual.solve(penalty, 1.0))
        weight = self.y.new_zeros(self.x.shape[1], self.y.shape[1])
        self._solve(weight, self.root, penalty, self.root * (self.y - self.mean))
        return weight

    def _solve(self, weight: Tensor, root: Tensor, penalty: float, y: Tensor) -> None:
        """Bring a weight there, in place, as all that is as large: new memory costs time.

        Its columns, and those of y, are the classes of one fold after the other; each takes steps
        until its own slope is small.
        """

        def by_fold(squares: Tensor) -> Tensor:
            return squares.unflatten(0, (-1, self.y.shape[1])).sum(1, keepdim=True)

        left = y - root * _times(self.x, weight)
        slope = _times(self.transposed, root * left).sub_(weight, alpha=penalty)
        along, size = slope.clone(), _squares(slope)
        enough, least = FLAT**2 * penalty * by_fold(_squares(y)), torch.finfo(size.dtype).tiny
        for _ in range(MOST_STEPS):
            goes_on = by_fold(size) > enough
            if not goes_on.any():
                break
            moved = root * _times(self.x, along)
            # A class of which nothing is left takes no further steps.
            step = size / (_squares(moved) + penalty * _squares(along)).clamp_min(least)
            step *= goes_on.expand(-1, self.y.shape[1]).flatten()
            weight.addcmul_(along, step)
            left.addcmul_(moved, step, value=-1)
            slope = _times(self.transposed, root * left).sub_(weight, alpha=penalty)
            before, size = size, _squares(slope)
            along.mul_(size / before.clamp_min(least)).add_(slope)


def _squares(of: Tensor) -> Tensor:
    """Each column's sum of squares; of a few rows at a time, as new memory costs time."""
    return torch.stack([(part * part).sum(0) for part in of.split(4096)]).sum(0)


class _Ridge:
    """As ``_Dual``, in whichever form is the smaller: the first ``means`` features have the share.

    That is, their penalty is divided by its square. The ``dual`` is smaller with no more rows to
    fit on than features; from the primal a held-out fold's products are taken away rather than all
    others' computed again.
    """

    def __init__(self, x: Tensor, y: Tensor, w: Tensor, means: int, dual: bool) -> None:
        """``x`` is of float32; all is summed as exactly as ``y`` is given."""
        self.x, self.y, self.root, self.means = x, y, w.sqrt()[:, None], means
        self.dual: _Dual | None = None
        if dual:
            x = x.to(y.dtype)
            of_means, products = (of @ of.T for of in (x[:, :means], x[:, means:]))
            self.dual = _Dual(products, of_means, y, w)
        else:
            self.all = torch.arange(len(x))
            self.products = self._products(self.all)
        self.mean = (w[:, None] * y).mean(0)

    def left_out(self, parts: Sequence[_Part]) -> _Scores:
        """What says, of a penalty and a share, the scores (n, n_classes), each without its fold."""
        if self.dual is not None:
            return self.dual.left_out(parts)
        return _in_turn(self.y, parts, self._without)

    def _without(self, fitted_on: Tensor, held: Tensor) -> _Scores:
        _, mean, y = _centred(self.y, self.root, fitted_on)
        inner = self.products - self._products(held)
        outer = self._onto(fitted_on, y)

        def from_features(penalty: float, share: float) -> Tensor:
            weight = _solve(inner, self._penalties(penalty, share), outer)
            return torch.cat([x @ weight for x in self._rows(held)]) + mean

        return from_features

    def solve(self, penalty: float, share: float) -> tuple[Tensor, Tensor]:
        """Weight (n_features, n_classes) and bias (n_classes,), from all rows."""
        penalties = self._penalties(penalty, share)
        if self.dual is not None:
            rows = self.dual.solve(penalty, share)
            return penalty / penalties[:, None] * (self.x.to(rows.dtype).T @ rows), self.mean
        outer = self._onto(self.all, self.root * (self.y - self.mean))
        return _solve(self.products, penalties, outer), self.mean

    def _rows(self, numbers: Tensor) -> Iterator[Tensor]:
        """These rows' features, a part at a time."""
        return (self.x[part].to(self.y.dtype) for part in numbers.split(_AT_ONCE))

    def _weighted(self, numbers: Tensor) -> Iterator[Tensor]:
        """The same, each row times the root of its weight."""
        roots = self.root[numbers].split(_AT_ONCE)
        return (root * x for root, x in zip(roots, self._rows(numbers), strict=True))

    def _products(self, numbers: Tensor) -> Tensor:
        """What these rows' features are to each other, (n_features, n_features)."""
        return _sum(x.T @ x for x in self._weighted(numbers))

    def _onto(self, numbers: Tensor, y: Tensor) -> Tensor:
        """What they are to y, of the same rows, (n_features, n_classes)."""
        parts = zip(self._weighted(numbers), y.split(_AT_ONCE), strict=True)
        return _sum(x.T @ of_rows for x, of_rows in parts)

    def _penalties(self, penalty: float, share: float) -> Tensor:
        """Of each feature, (n_features,)."""
        penalties = self.y.new_full(self.x.shape[1:], penalty)
        penalties[: self.means] /= share**2
        return penalties


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Of one after the other, into the first."""
    return reduce(Tensor.add_, terms)


def _joined(others: Tensor, of_means: Tensor | None, share: float) -> Tensor:
    return others if of_means is None else torch.add(others, of_means, alpha=share**2)


def _centred(y: Tensor, root: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows fitted on: roots of their weights, the mean target, and what it leaves of each."""
    of_rows = root[rows]
    # All that counts may be in the fold left out.
    mean = (of_rows**2 * y[rows]).sum(0) / (of_rows**2).sum().clamp_min(1e-9)
    return of_rows, mean, of_rows * (y[rows] - mean)


def _solve(products: Tensor, penalty: float | Tensor, y: Tensor) -> Tensor:
    penalised = products.clone()
    penalised.diagonal().add_(penalty)
    return torch.cholesky_solve(y, torch.linalg.cholesky(penalised))
