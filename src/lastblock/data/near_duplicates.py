"""Texts that say nearly the same: MinHash over character shingles, checked exactly.

One hash a shingle and one minimum a bucket (Li, Owen, Zhang 2012, "One Permutation Hashing"), empty
buckets filled from their neighbours (Shrivastava, Li 2014), bands of buckets to find candidates;
each pair that is joined has been compared shingle by shingle. Two texts that are alike are found
with high probability, not with certainty. Knows no labels. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lastblock.data.examples import Rows

SHINGLE = 5  # characters
MOST_CHARACTERS = 20_000  # of a text; what follows is not compared
_BUCKETS, _BAND = 64, 4
_CHUNK = 1 << 20  # characters hashed at a time
_PAIRS = 1 << 14  # pairs of texts whose signatures are compared at a time
_EMPTY = np.uint32(2**32 - 1)

Hashes = NDArray[np.uint64]
Signatures = NDArray[np.uint32]


def near_duplicate_groups(texts: Sequence[str], *, threshold: float = 0.8) -> Rows:
    """The group (int64, from 0) of each text; equal texts share one.

    Two texts are joined where the Jaccard similarity of their sets of 5-character shingles is at
    least ``threshold``; what is joined with a common third is in the same group too.
    """
    known: dict[str, int] = {}
    of_text = [known.setdefault(text[:MOST_CHARACTERS], len(known)) for text in texts]
    different = list(known)
    parents = list(range(len(different)))
    signatures = _signatures(different)
    candidates = [*_candidates(signatures, threshold), np.empty((0, 2), np.int64)]
    for a, b in np.unique(np.concatenate(candidates), axis=0).tolist():
        root_a, root_b = _root(parents, a), _root(parents, b)
        if root_a != root_b and similarity(different[a], different[b]) >= threshold:
            parents[max(root_a, root_b)] = min(root_a, root_b)
    roots = np.array([_root(parents, index) for index in range(len(parents))], np.int64)
    _, groups = np.unique(roots, return_inverse=True)
    return groups.astype(np.int64)[np.asarray(of_text, np.int64)]


def similarity(a: str, b: str) -> float:
    """The Jaccard similarity of the two texts' sets of shingles."""
    left, right = _shingles(a), _shingles(b)
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def _shingles(text: str) -> set[str]:
    text = text[:MOST_CHARACTERS].ljust(SHINGLE)
    return {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _signatures(texts: Sequence[str]) -> Signatures:
    """The smallest hash in each bucket; shape (texts, buckets)."""
    signatures = np.full((len(texts), _BUCKETS), _EMPTY)
    start = 0
    for stop in _chunks(texts):
        _minima(texts[start:stop], signatures[start:stop])
        start = stop
    for _ in range(2):  # twice around, for the last bucket may have to look past the first
        for bucket in range(_BUCKETS - 1, -1, -1):
            empty = signatures[:, bucket] == _EMPTY
            signatures[empty, bucket] = signatures[empty, (bucket + 1) % _BUCKETS]
    return signatures


def _chunks(texts: Sequence[str]) -> Iterator[int]:
    size = 0
    for stop, text in enumerate(texts, 1):
        size += len(text)
        if size >= _CHUNK or stop == len(texts):
            yield stop
            size = 0


def _minima(texts: Sequence[str], signatures: Signatures) -> None:
    padded = [text.ljust(SHINGLE) for text in texts]
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) for text in padded])
    text_of = np.repeat(np.arange(len(padded)), lengths)
    hashes = _mixed(letters.astype(np.uint64))
    # Shingles that reach into the next text are left out.
    inside = text_of[: len(hashes)] == text_of[SHINGLE - 1 :]
    hashes, text_of = hashes[inside], text_of[: len(hashes)][inside]
    places = text_of * _BUCKETS + (hashes & np.uint64(_BUCKETS - 1)).astype(np.int64)
    values = (hashes >> np.uint64(33)).astype(np.uint32)  # 31 bits: never _EMPTY
    np.minimum.at(signatures.reshape(-1), places, values)


def _mixed(letters: Hashes) -> Hashes:
    """A 64-bit hash of each shingle (splitmix64's last steps over a polynomial)."""
    count = len(letters) - SHINGLE + 1
    value = np.zeros(count, np.uint64)
    for i in range(SHINGLE):
        value = value * np.uint64(0x100000001B3) + letters[i : i + count]
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _candidates(signatures: Signatures, threshold: float) -> Iterator[Rows]:
    """Pairs that share a band and whose signatures are alike, some at a time; shape (pairs, 2).

    Within a band each text meets the one before it and the first, not all: groups are joined in
    the end, and many copies of one text would make too many pairs.
    """
    for first in range(0, _BUCKETS, _BAND):
        band = np.zeros(len(signatures), np.uint64)
        for bucket in range(first, first + _BAND):
            band = band * np.uint64(0x9E3779B97F4A7C15) + signatures[:, bucket].astype(np.uint64)
        order = np.argsort(band, kind="stable")
        sorted_band = band[order]
        same = np.zeros(len(order), bool)  # whether the one before has the same band
        same[1:] = sorted_band[1:] == sorted_band[:-1]
        starts, again = np.flatnonzero(~same), np.flatnonzero(same)
        leaders = np.repeat(order[starts], np.diff(starts, append=len(order)))
        earlier = np.concatenate([leaders[again], order[again - 1]])
        pairs = np.stack([earlier, np.concatenate([order[again], order[again]])], axis=1)
        for some in np.array_split(pairs, len(pairs) // _PAIRS + 1):
            alike = np.count_nonzero(signatures[some[:, 0]] == signatures[some[:, 1]], axis=1)
            # The signatures' share is an estimate: leave room for its error.
            yield some[alike >= (threshold - 0.15) * _BUCKETS]
