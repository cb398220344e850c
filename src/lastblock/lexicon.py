"""LEXICON: which words and letters speak for which class, whatever the decoder makes of them.

A decoder that has hardly read a language, or a trade's names, tells its texts apart worse than
their bare words do. So these have a say of their own: a text's words, pairs of words and the
letters inside its words are counted in a table of ``BUCKETS`` numbers by a hash (Weinberger et al.
2009, "Feature Hashing for Large Scale Multitask Learning", section 2, without signs), weighted by
TF-IDF with sublinear counts, brought to unit length and read by a linear layer. ``fit_lexicon``
finds its weights; how much it counts is measured, see ``ensemble``. Of it numbers are saved, no
words.

Knows texts and class numbers; no label names, no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.data.examples import WORD

BUCKETS = 2**16
# Letters taken together, of a word and the spaces around it.
LETTERS = range(2, 6)
# Buckets of so many words are remembered, of such as may come again: not of whole lines in scripts
# that are written without spaces.
_KEPT_WORDS, _LONGEST_KEPT = 2**15, 20
# An n-gram's hash is the CRC-32 of its letters after one that says what it is, to the last 16 bits.
_OF_WORDS, _OF_LETTERS = crc32(b"w"), crc32(b"l")
# Texts that are read at once: each has hundreds of n-grams.
_AT_ONCE = 512


@dataclass(frozen=True)
class Ngrams:
    """What n texts hold: ``counts`` (m,) float32 of ``buckets`` (m,), text by text.

    Text i's are from ``starts[i]`` to ``starts[i + 1]``; both int32, as there are many.
    """

    buckets: Tensor
    counts: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1


def count_ngrams(texts: Sequence[str]) -> Ngrams:
    """How often each text has each word, pair of neighbouring words, and letters inside words."""
    buckets, counts = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for text in texts:
        of, times = np.unique(_buckets(text.lower()), return_counts=True)
        buckets.append(of)
        counts.append(times.astype(np.float32))
    starts = np.cumsum([len(of) for of in buckets], dtype=np.int32)
    return Ngrams(*map(torch.from_numpy, (np.concatenate(buckets), np.concatenate(counts), starts)))


class Lexicon(nn.Module):
    """A linear layer on the n-grams of a text, as they are in training texts; zeros at first."""

    idf: nn.Parameter
    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        shapes = {"idf": (BUCKETS,), "weight": (BUCKETS, n_classes), "bias": (n_classes,)}
        for name, shape in shapes.items():  # fitted in closed form, not by gradients
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    @torch.no_grad()
    def learn_idf(self, ngrams: Ngrams) -> None:
        """How rare each n-gram is among training texts: log((1 + n) / (1 + texts with it)) + 1."""
        having = torch.bincount(ngrams.buckets, minlength=BUCKETS)
        self.idf.copy_(torch.log((1 + len(ngrams)) / (1 + having)) + 1)

    @property
    def silent(self) -> bool:
        """Whether it has nothing to say: it has not learnt yet."""
        return not self.idf.any()

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Make what it says count so many times as much."""
        self.weight.mul_(factor)
        self.bias.mul_(factor)

    def read(self, texts: Sequence[str]) -> Tensor:
        """Logits (n, n_classes) of texts, float32."""
        parts = [texts[i : i + _AT_ONCE] for i in range(0, len(texts), _AT_ONCE)]
        said = [self(count_ngrams(part)) for part in parts]
        return torch.cat(said) if said else torch.zeros(0, len(self.bias))

    def rows(self, ngrams: Ngrams) -> Tensor:
        """What each n-gram of each text counts, (m,), float32: of a text a row of unit length."""
        values = (1 + ngrams.counts.log()) * self.idf[ngrams.buckets]
        squares = torch.segment_reduce(values**2, "sum", offsets=ngrams.starts, initial=0)
        return values / squares.sqrt().repeat_interleave(ngrams.starts.diff()).clamp_min(1e-12)

    @torch.no_grad()
    def forward(self, ngrams: Ngrams) -> Tensor:
        """Logits (n, n_classes), float32; each text's whatever the others are."""
        parts = ngrams.buckets, ngrams.starts, self.rows(ngrams)
        return weighted_sums(*parts, self.weight) + self.bias


def weighted_sums(numbers: Tensor, starts: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """Sums (n, k) of rows (any, k): of those ``numbers`` (m,), each times its weight, (m,).

    Sum i is of those from ``starts[i]`` to ``starts[i + 1]``, in one order whatever the others are:
    a sparse matrix (n, any) times a dense one, by all threads.
    """
    return F.embedding_bag(
        numbers,
        rows,
        starts,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )


def _buckets(text: str) -> npt.NDArray[np.int32]:
    """The bucket of each n-gram of a text, as often as it stands there."""
    words = [_bytes(word) for word in WORD.findall(text)]
    whole = [crc32(word, _OF_WORDS) for word in words]
    # The sum of "one two" goes on from that of "one".
    pairs = [crc32(b" " + two, one) for one, two in zip(whole, words[1:], strict=False)]
    letters = (
        _kept_letters(word) if len(word) <= _LONGEST_KEPT else _letters(word)
        for word in text.split()
    )
    return np.concatenate([_numbers(whole + pairs), *letters])


def _letters(word: str) -> npt.NDArray[np.int32]:
    """The bucket of each 2 to 5 letters that stand side by side in a word."""
    spaced = f" {word} "
    letters = _bytes(spaced)
    at: Sequence[int] = range(len(spaced) + 1)  # where each letter begins
    if not spaced.isascii():
        at = [0, *accumulate(len(_bytes(letter)) for letter in spaced)]
    sums = [
        crc32(letters[at[i] : at[i + size]], _OF_LETTERS)
        for size in LETTERS
        for i in range(len(spaced) - size + 1)
    ]
    return _numbers(sums)


_kept_letters = lru_cache(_KEPT_WORDS)(_letters)


def _numbers(hashes: Sequence[int]) -> npt.NDArray[np.int32]:
    return (np.array(hashes, np.int64) % BUCKETS).astype(np.int32)


def _bytes(of: str) -> bytes:
    return of.encode("utf-8", "surrogatepass")
