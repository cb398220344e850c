"""CHOOSE DEPTH: where to cut the decoder, from what a probe reads at each depth.

Some of the training texts are taken up through the decoder a block at a time. After every step a
probe (ridge regression on the last token's state and the mean state, cross-validated) says how
well the classes can be told apart there; that rises and falls again, as the upper blocks turn to
predicting the next token. What was computed on the way to the chosen depth is kept, so the choice
costs little more than the blocks above it; and so are the states that were probed, so the next
choice on the same texts costs no pass at all.

Knows token ids and class numbers; no text, no files. Only training texts may be given.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lastblock.activations import TOKEN_BUDGET, ActivationStore
from lastblock.classifier import activations_here, kept_as
from lastblock.decoder.decoder import Climb, Decoder
from lastblock.probe import Probe, fit_probe
from lastblock.runtime import Progress, Silent, at_once, inferred, one_beside
from lastblock.tokenization.batching import TokenIds, pad, shared_batches

# Texts that are probed, and their tokens: more would tell little more, and all these states of a
# few depths are held in memory. Fewer do as well, but see docs/experiments.md.
MOST_TEXTS = 512
MOST_TOKENS = 32_768
# Depths that are probed, as shares of the decoder, at about every fifteenth. Above, little is
# gained on any set that was looked at, and every block costs time (docs/experiments.md).
LOWEST, HIGHEST, STEPS = 2 / 5, 4 / 5, 15
# The share that serves most sets best: a few texts cannot say otherwise. For every quarter of the
# decoder that a depth is away from it, it has to be so many standard errors better.
USUAL, AWAY = 11 / 15, 2.0
# From this standard error down (accuracies of 0.95 and more, mostly) a lower depth is taken if it
# does as well: what could be lost is less than this, and every block costs time at each text.
CERTAIN = 0.01
# That holds where the probe has learnt the classes: it must leave no more than this share of what
# always saying the most frequent one gets wrong, which with a rare class is next to nothing.
UNLEARNT = 0.2
# There the pass goes no higher once so many depths in a row did no better than one below them.
SURE = 2
# Depths for the mean states that the classifier's own probe sees, as shares of the decoder.
SUMMARY = (1 / 4, 1 / 2)


@dataclass(frozen=True)
class Choice:
    """How many blocks stay frozen below the trained ones, and what that was chosen from.

    ``accuracy`` is the probe's, cross-validated over ``texts`` training texts, after each number
    of blocks in ``depths``. ``activations`` are those of the probed texts that had to be computed,
    by the bytes of their token ids; ``tokens`` is how many that were.
    """

    frozen_blocks: int
    summary_depths: tuple[int, ...]
    depths: list[int]
    accuracy: list[float]
    texts: int
    reason: str
    activations: dict[bytes, Tensor] = field(repr=False)
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "depths": self.depths,
            "accuracy": self.accuracy,
            "texts": self.texts,
            "chosen": {"depth": self.frozen_blocks},
            "reason": self.reason,
        }


def summary_depths(n_layers: int, frozen_blocks: int) -> tuple[int, ...]:
    """Depths of the mean states beside a tail that stands on ``frozen_blocks`` of ``n_layers``."""
    wanted = {min(max(1, round(n_layers * share)), frozen_blocks) for share in SUMMARY}
    return tuple(sorted(wanted - {0}))


def candidates(n_layers: int, trainable_blocks: int) -> list[int]:
    """Numbers of frozen blocks that come into question below so many trainable ones."""
    step = max(1, round(n_layers / STEPS))
    most = n_layers - trainable_blocks
    lowest, highest = max(1, round(n_layers * LOWEST)), min(most, round(n_layers * HIGHEST))
    return list(range(min(lowest, highest), highest + 1, step))


def choose_depth(
    decoder: Decoder,
    sequences: Sequence[TokenIds],
    targets: Tensor,
    trainable_blocks: int,
    states: Callable[[int], ActivationStore],
    progress: Progress | None = None,
    weights: Tensor | None = None,
    of: npt.NDArray[np.int64] | None = None,
) -> Choice:
    """Choose how many blocks to freeze, from training texts alone.

    Args:
        decoder: up to the last of ``candidates``, in what its frozen blocks will compute in.
        sequences: token ids of the training texts.
        targets: class numbers (n,), or indicators (n, n_classes) for several labels a text.
        trainable_blocks: how many blocks must be left above the frozen ones.
        states: says, of a depth, what keeps each text's probed states there, (2, C), for next time.
        progress: where to show how it goes on.
        weights: how much each text counts, (n,), or of several labels each answer, (n, 1) or
            (n, n_classes); None: all alike.
        of: where sequences are parts of longer texts, the number of each one's text, (n,).
    """
    n_layers = decoder.config.num_hidden_layers
    wanted = candidates(n_layers, trainable_blocks)
    say = range(len(sequences)) if weights is None else _weighty(weights)
    picked = [say[i] for i in sample([sequences[i] for i in say])]
    texts, truth = [sequences[i] for i in picked], targets[picked]
    counts = None if weights is None else weights[picked]
    whole = None if of is None else of[picked]
    alike = len(texts) if counts is None else _equally_weighted(counts)
    several, base = targets.dim() == 2, _most_frequent(truth, counts)
    curve = Curve(len(texts), n_layers, several=several, alike=alike, base=base)
    stops = sorted({*wanted, *(d for frozen in wanted for d in summary_depths(n_layers, frozen))})
    stores = {depth: states(depth) for depth in wanted}
    known = stores[wanted[0]].known(texts)
    climb = _Ascent(decoder)
    climb.begin([ids for ids in texts if ids.tobytes() not in known])
    running: dict[int, list[Climb]] = {}
    progress = progress or Silent()
    probing: list[Future[Probe]] = []

    def judge() -> None:
        for depth, probe in [*zip(wanted, probing, strict=False)][len(curve.depths) :]:
            curve.add(depth, _accuracy(probe.result().out_of_fold, truth, counts))
        for depth in running.keys() - curve.in_the_running():
            del running[depth]

    def keep_and_probe(
        kept: ActivationStore,
        new: Callable[[], dict[bytes, Tensor]],
        known: dict[bytes, Tensor],
    ) -> Probe:
        pooled = new()
        kept.put(pooled, progress)
        both = pooled | known
        features = torch.stack([both[ids.tobytes()] for ids in texts]).float()  # (n, 2, C)
        means = features.shape[2]
        return fit_probe(features.flatten(1), truth, counts, whole, means=means)

    # Each depth's probe, work for hardly more than one thread, is fitted on the way to the next.
    with (
        one_beside() as beside,
        progress.task("choosing depth", stops[-1], "blocks") as advance,
    ):
        for stop in stops:
            advance(climb.to(stop))
            if stop not in wanted:
                continue
            known = stores[stop].known(texts)
            # An earlier choice may have stopped before it came here.
            climb.begin([ids for ids in texts if ids.tobytes() not in known])
            if probing:
                judge()
            running[stop] = climb.here()
            probing.append(beside.submit(keep_and_probe, stores[stop], climb.pooled(), known))
            if curve.settled(SURE - 1):
                judge()
            if curve.settled(SURE):
                break
        judge()
    frozen = curve.chosen()
    summary = summary_depths(n_layers, frozen)
    return Choice(
        frozen_blocks=frozen,
        summary_depths=summary,
        depths=curve.depths,
        accuracy=curve.accuracy,
        texts=len(texts),
        reason=curve.reason(),
        # A depth that fell behind may be the one in the end, as those above it change its value.
        activations=climb.activations(running.get(frozen, []), summary),
        tokens=climb.tokens,
    )


def sample(sequences: Sequence[TokenIds]) -> list[int]:
    """Rows of the texts to probe: drawn by what they say, so that another seed's are the same."""

    def drawn(row: int) -> bytes:
        return hashlib.blake2b(sequences[row].tobytes(), digest_size=8).digest()

    rows: list[int] = []
    tokens, seen = 0, set[bytes]()
    for row in sorted(range(len(sequences)), key=drawn):
        ids = sequences[row].tobytes()
        if ids in seen:
            continue
        tokens += len(sequences[row])
        if rows and (len(rows) == MOST_TEXTS or tokens > MOST_TOKENS):
            break
        seen.add(ids)
        rows.append(row)
    return sorted(rows)


def _accuracy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> float:
    """Share of texts right; of several labels, of texts whose likeliest label is one of theirs.

    That is what tells depths apart: most labels are rare, so no label is the right answer nearly
    everywhere.
    """
    best = logits.argmax(1)
    right = targets == best if targets.dim() == 1 else targets.gather(1, best[:, None])[:, 0] > 0
    if weights is None:
        return float(right.double().mean())
    counts = weights if weights.dim() == 1 else weights.mean(1)
    return float((counts * right).sum() / counts.sum())


def _most_frequent(targets: Tensor, weights: Tensor | None) -> float:
    """The accuracy, as ``_accuracy`` has it, of always giving the most frequent class or label."""
    several = targets.dim() == 2
    classes = targets.shape[1] if several else int(targets.max()) + 1
    says = torch.eye(classes)
    return max(_accuracy(says[[i] * len(targets)], targets, weights) for i in range(classes))


def _weighty(weights: Tensor) -> list[int]:
    """Rows that count at all, by weights (n,) or (n, k); the others have no say in anything."""
    counts = weights if weights.dim() == 1 else weights.amax(1)
    return counts.nonzero()[:, 0].tolist()


def _equally_weighted(weights: Tensor) -> float:
    """How many texts of equal weight say as much as these, (n,) or (n, k) (Kish 1965)."""
    counts = weights if weights.dim() == 1 else weights.mean(1)
    return float(counts.sum() ** 2 / (counts**2).sum())


class Curve:
    """Accuracy by depth, from ``n`` texts (of one label each or several), and what follows.

    ``alike``: how many texts of equal weight they are worth; all, if not given.

    A depth's accuracy is smoothed with its neighbours', and lowered the more the further it is
    from the usual depth, in standard errors: many texts choose for themselves, a few hardly.
    Chosen is the best then, or where the standard error is at most ``CERTAIN`` the lowest that does
    as well, if it does much better than always saying the most frequent class, which ``base`` of
    the texts have. In the running are those within a standard error of the best, and those that
    may yet be that lowest one: nearly always the one that is chosen in the end is among them.
    """

    def __init__(
        self,
        n: int,
        n_layers: int,
        several: bool = False,
        alike: float | None = None,
        base: float = 0.0,
    ) -> None:
        self.n = n
        self.usual, self.quarter = USUAL * n_layers, n_layers / 4
        self.alike = n if alike is None else alike
        self.base = base
        self.what = "its likeliest label" if several else "it"
        self.depths: list[int] = []
        self.accuracy: list[float] = []

    def add(self, depth: int, accuracy: float) -> None:
        self.depths.append(depth)
        self.accuracy.append(accuracy)

    def smoothed(self) -> list[float]:
        padded = [self.accuracy[0], *self.accuracy, self.accuracy[-1]]
        return [
            (a + 2 * b + c) / 4 for a, b, c in zip(padded, padded[1:], padded[2:], strict=False)
        ]

    @property
    def standard_error(self) -> float:
        """Of the best depth's accuracy."""
        best = max(self.smoothed())
        return math.sqrt(max(best * (1 - best), 1 / self.alike) / self.alike)

    def _scores(self) -> dict[int, float]:
        each = AWAY * self.standard_error / self.quarter
        pairs = zip(self.depths, self.smoothed(), strict=True)
        return {depth: smooth - each * abs(depth - self.usual) for depth, smooth in pairs}

    def in_the_running(self) -> list[int]:
        scores, smooth = self._scores(), self.smoothed()
        best, error = max(scores.values()), self.standard_error
        kept = {depth for depth, score in scores.items() if score >= best - error}
        if error <= CERTAIN:
            # What is right more often than anything below it may be the lowest that does as well.
            for i, depth in enumerate(self.depths):
                if smooth[i] > max(smooth[:i], default=-1.0) and smooth[i] >= best - 2 * error:
                    kept.add(depth)
        return sorted(kept | {self.chosen()})

    def chosen(self) -> int:
        return self._as_good()[0]

    def _best(self) -> int:
        scores = self._scores()
        return max(scores, key=lambda depth: scores[depth])

    def _lowest_will_do(self) -> bool:
        """Whether what could be lost by a lower depth that does as well is too little to matter."""
        if not self.accuracy:
            return False
        learnt = 1 - max(self.smoothed()) <= UNLEARNT * (1 - self.base)
        return self.standard_error <= CERTAIN and learnt

    def _as_good(self) -> list[int]:
        """The best depth, and before it those that do as well, where that is certain enough."""
        best = self._best()
        if not self._lowest_will_do():
            return [best]
        smooth = dict(zip(self.depths, self.smoothed(), strict=True))
        return [d for d in self.depths if d == best or (d < best and smooth[d] >= smooth[best])]

    def settled(self, above: int) -> bool:
        """Whether so many depths or more did no better than the best one below them.

        Only where the lowest that does as well is to be taken; else what is above may be needed.
        """
        if not self._lowest_will_do():
            return False
        smooth = self.smoothed()
        return len(smooth) - 1 - smooth.index(max(smooth)) >= above

    def reason(self) -> str:
        chosen, smooth = self.chosen(), self.smoothed()
        if self.n < 2:  # all texts are equal, and none is left to judge a probe by
            return (
                f"All texts read the same, so nothing tells depths apart: {chosen} suit most texts."
            )
        at, best = self.depths.index(chosen), max(smooth)
        if chosen != self._best():
            why = (
                f"After block {chosen} a linear probe tells the classes apart as well as after "
                f"block {self._best()}, for less time; {self.what}"
            )
        elif smooth[at] == best:
            why = f"After block {chosen} a linear probe tells the classes apart best; {self.what}"
        else:
            other = self.depths[smooth.index(best)]
            by = (best - smooth[at]) / self.standard_error
            why = (
                f"After block {other} a linear probe tells the classes apart better by {by:.1f} "
                f"standard errors, too little to leave the depth that serves most texts best; "
                f"after block {chosen} {self.what}"
            )
        return (
            f"{why} is right in {self.accuracy[at]:.1%} of {self.n:,} training texts, "
            "cross-validated."
        )


@dataclass
class _Batch:
    """Texts of like length on their way up, and what was pooled of them at every stop."""

    texts: list[TokenIds]
    climb: Climb
    pooled: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # last and mean

    def to(self, depth: int) -> None:
        self.pooled[depth] = self.climb.to(depth).pooled()


class _Ascent:
    """A few texts on their way up through a decoder, in batches of like length."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._stops = decoder, list[int]()
        self._batches: list[_Batch] = []
        self._begun: set[bytes] = set()
        self.tokens = 0

    @property
    def depth(self) -> int:
        return self._stops[-1] if self._stops else 0

    def begin(self, sequences: Sequence[TokenIds]) -> None:
        """Take texts, but those that are on their way already, up to where the others are."""
        new = [ids for ids in sequences if ids.tobytes() not in self._begun]
        batches = []
        for rows in shared_batches(new, TOKEN_BUDGET, at_once()):
            texts = [new[i] for i in rows]
            ids, lengths = pad(texts, pad_id=0)
            with torch.inference_mode():
                climb = self._decoder.climb(torch.from_numpy(ids), torch.tensor(lengths))
            batches.append(_Batch(texts, climb))
        for stop in self._stops:
            _all_to(stop, batches)
        self._batches += batches
        self._begun |= {ids.tobytes() for ids in new}
        self.tokens += sum(map(len, new))

    def to(self, depth: int) -> int:
        """Go up to ``depth``; by how many blocks that was."""
        climbed = depth - self.depth
        _all_to(depth, self._batches)
        self._stops.append(depth)
        return climbed

    def pooled(self) -> Callable[[], dict[bytes, Tensor]]:
        """What gives mean and last token's states here, (2, C) float32, by the texts' token ids.

        Also when the texts have gone on.
        """
        here = [(batch.texts, batch.pooled[self.depth]) for batch in self._batches]

        def by_ids() -> dict[bytes, Tensor]:
            found = {}
            for texts, (last, mean) in here:
                for ids, rows in zip(texts, torch.stack((mean, last), 1), strict=True):
                    found[ids.tobytes()] = rows
            return found

        return by_ids

    def here(self) -> list[Climb]:
        """Each batch where it is, to come back to when it has gone on."""
        return [copy.copy(batch.climb) for batch in self._batches]

    def activations(self, here: Sequence[Climb], summary: Sequence[int]) -> dict[bytes, Tensor]:
        """Each text's activations as ``SequenceClassifier.prefix`` gives them.

        ``here`` as given by the method of that name; texts begun later are left out.
        """
        found: dict[bytes, Tensor] = {}
        for batch, climb in zip(self._batches, here, strict=False):
            means = [batch.pooled[depth][1] for depth in summary]
            states = activations_here(climb, means, kept_as(self._decoder))
            found |= {ids.tobytes(): own for ids, own in zip(batch.texts, states, strict=True)}
        return found


def _all_to(depth: int, batches: Sequence[_Batch]) -> None:
    for _ in inferred(lambda batch: batch.to(depth), batches):
        pass
