"""Batches hold every text once, within the budget, and padding loses nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.tokenization.batching import head_and_tail, pad, shared_batches, windows


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 500), st.integers(1, 5))
def test_every_text_once_within_the_budget(lengths: list[int], budget: int, at_once: int) -> None:
    sequences = [np.arange(n, dtype=np.int32) for n in lengths]
    batches = [batch.tolist() for batch in shared_batches(sequences, budget, at_once)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    in_order = [lengths[i] for batch in batches for i in batch]
    for one, other in itertools.combinations(in_order, 2):  # as good as the longest first
        assert other < 1.25 * one


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 500), st.integers(1, 5))
def test_the_longest_come_first_where_nothing_is_alike(
    lengths: list[int], budget: int, at_once: int
) -> None:
    """By the three leading bits of a length."""
    sequences = [np.arange(n, dtype=np.int32) for n in lengths]
    order = np.concatenate([np.empty(0, np.int64), *shared_batches(sequences, budget, at_once)])
    leading = [int(f"{lengths[i]:b}"[:3].ljust(len(f"{lengths[i]:b}"), "0"), 2) for i in order]
    assert leading == sorted(leading, reverse=True)


def test_those_that_begin_alike_stand_together() -> None:
    begin = [[7, 300, 1], [7, 2, 70_000], [300, 7, 7]]
    sequences = [np.array([*begin[i % 3], 50 + i], np.int32) for i in range(30)]
    order = np.concatenate(shared_batches(sequences, 24)) % 3
    assert np.count_nonzero(np.diff(order)) == 2


@pytest.mark.parametrize(
    ("at_once", "sizes"),
    [(1, [10, 10, 10, 5]), (2, [10, 10, 10, 5]), (3, [10, 10, 10, 2, 2, 1]), (5, [10, 10, 10, 5])],
)
def test_the_last_batches_are_shared_out(at_once: int, sizes: list[int]) -> None:
    batches = shared_batches([np.zeros(7, np.int32)] * 35, 70, at_once)
    assert [len(batch) for batch in batches] == sizes


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_padding_is_on_the_right(lengths: list[int]) -> None:
    sequences = [np.arange(1, n + 1, dtype=np.int32) for n in lengths]
    ids, kept = pad(sequences, pad_id=0)
    assert kept == lengths
    assert ids.shape == (len(lengths), max(lengths))
    for row, n in zip(ids, lengths, strict=True):
        assert row.tolist() == [*range(1, n + 1), *[0] * (max(lengths) - n)]


def test_head_and_tail_keep_both_ends() -> None:
    ids = np.arange(100, dtype=np.int32)
    assert head_and_tail(ids, 12).tolist() == [0, 1, 2, *range(91, 100)]
    assert head_and_tail(ids, 100) is ids


@pytest.mark.parametrize(("n", "length"), [(0, 4), (1, 4), (4, 4), (5, 4), (103, 10)])
def test_windows_hold_every_token_once_and_are_about_equally_long(n: int, length: int) -> None:
    ids = np.arange(n, dtype=np.int32)
    parts = windows(ids, length)
    assert np.concatenate(parts).tolist() == ids.tolist()
    assert max(map(len, parts)) <= length
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
