"""Splits: every row once, equal texts on one side, sizes and classes as asked for."""

import json
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.balance import undersample
from lastblock.data.catalog import load
from lastblock.data.examples import Examples, Label, Split
from lastblock.data.inspection import count_shared, normalise
from lastblock.data.split import (
    folds,
    hash_split,
    holdout,
    read_split,
    shuffled_split,
    split_record,
    stratified_split,
    time_split,
)
from lastblock.errors import ConfigError, DataError

FRACTIONS = (0.7, 0.1, 0.2)
SEEDS = st.integers(0, 2**32 - 1)
# Few different texts and labels, so that repeats and contradictions are common.
ROWS = st.lists(st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("wxyz")), min_size=1)


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.validation, split.test]


def distinct(n: int) -> list[str]:
    """Texts that stay different when digits are masked."""
    return ["".join(chr(97 + int(digit)) for digit in str(i)) for i in range(n)]


@given(ROWS, SEEDS)
def test_every_row_once_and_equal_texts_together(rows: list[tuple[str, str]], seed: int) -> None:
    texts, labels = map(list, zip(*rows, strict=True))
    split = stratified_split(texts, labels, seed=seed)
    assert sorted(np.concatenate(parts(split)).tolist()) == list(range(len(rows)))
    assert all(part.dtype == np.int64 for part in parts(split))
    sides = [{normalise(texts[row]) for row in part} for part in parts(split)]
    assert sum(map(len, sides)) == len(set(texts))
    assert {labels[row] for row in split.train} == set(labels)
    again = stratified_split(texts, labels, seed=seed)
    assert all((a == b).all() for a, b in zip(parts(split), parts(again), strict=True))


@given(st.lists(st.sampled_from("wxyz"), min_size=1, max_size=300), SEEDS)
def test_sizes_of_different_texts(labels: list[str], seed: int) -> None:
    split = stratified_split(distinct(len(labels)), labels, seed=seed)
    counts = Counter(labels)
    for part, fraction in zip(parts(split), FRACTIONS, strict=True):
        assert abs(len(part) - fraction * len(labels)) <= 1 + len(counts)
        drawn = Counter(labels[row] for row in part)
        for label, count in counts.items():
            assert abs(drawn[label] - fraction * count) <= 3


@given(st.lists(st.integers(10, 60), min_size=2, max_size=12), SEEDS)
def test_totals_are_exact_when_no_class_is_small(counts: list[int], seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    split = stratified_split(distinct(len(labels)), labels, seed=seed)
    for part, fraction in zip(parts(split), FRACTIONS, strict=True):
        assert abs(len(part) - fraction * len(labels)) <= 1.01


@given(ROWS, SEEDS)
def test_no_part_is_empty_where_train_can_spare_it(rows: list[tuple[str, str]], seed: int) -> None:
    """Different texts: whatever exceeds one row a class can be spared."""
    labels = [label for _, label in rows]
    split = stratified_split(distinct(len(rows)), labels, seed=seed)
    spare = len(labels) - len(set(labels))
    assert len(split.validation) + len(split.test) >= min(spare, 2)
    assert (len(split.validation) > 0) + (len(split.test) > 0) == min(spare, 2)


def test_two_examples_a_class() -> None:
    split = stratified_split(distinct(4), ["x", "x", "y", "y"], seed=0)
    assert [len(part) for part in parts(split)] == [2, 1, 1]


def test_one_row_goes_to_train() -> None:
    split = stratified_split(["a"], ["x"], seed=0)
    assert [part.tolist() for part in parts(split)] == [[0], [], []]


def test_repeated_texts_are_drawn_too() -> None:
    """Pairs of rows: test gets its share although no single rows exist."""
    texts = [text for text in distinct(50) for _ in range(2)]
    split = stratified_split(texts, ["x"] * 100, seed=0)
    assert [len(part) for part in parts(split)] == [70, 10, 20]


def test_a_contradicted_text_goes_with_its_majority_and_no_class_is_lost() -> None:
    texts = ["same"] * 3 + distinct(20)
    labels: list[Label] = ["rare", "x", "x"] + ["x"] * 20
    for seed in range(10):
        split = stratified_split(texts, labels, seed=seed)
        assert {0, 1, 2} <= set(split.train.tolist())


def test_ten_thousand_classes() -> None:
    labels: list[Label] = [i // 2 for i in range(20_000)]
    split = stratified_split(distinct(20_000), labels, seed=0)
    assert len({labels[row] for row in split.train}) == 10_000
    assert [len(part) for part in parts(split)] == [14_000, 2_000, 4_000]


def test_the_seed_decides() -> None:
    labels: list[Label] = ["x", "y"] * 50
    first, second = (stratified_split(distinct(100), labels, seed=seed) for seed in (1, 2))
    assert set(first.test.tolist()) != set(second.test.tolist())


def test_fractions_may_leave_out_a_part() -> None:
    split = stratified_split(distinct(10), ["x"] * 10, fractions=(0.8, 0.0, 0.2), seed=0)
    assert [len(part) for part in parts(split)] == [8, 0, 2]


@given(ROWS, SEEDS)
def test_holdout(rows: list[tuple[str, str]], seed: int) -> None:
    texts, labels = map(list, zip(*rows, strict=True))
    rest, held_out = holdout(texts, labels, fraction=0.1, seed=seed)
    assert sorted([*rest, *held_out]) == list(range(len(rows)))
    assert not {texts[row] for row in rest} & {texts[row] for row in held_out}
    assert {labels[row] for row in rest} == set(labels)


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5)])
def test_impossible_fractions(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="fractions are"):
        stratified_split(["a"], ["x"], fractions=fractions, seed=0)


@pytest.mark.parametrize(("texts", "labels"), [([], []), (["a"], []), (["a"], ["x", "y"])])
def test_nothing_to_split(texts: list[str], labels: list[Label]) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        stratified_split(texts, labels, seed=0)


@given(st.integers(0, 2000), SEEDS)
def test_the_books_split(n: int, seed: int) -> None:
    split = shuffled_split(n, seed=seed)
    assert sorted(np.concatenate(parts(split)).tolist()) == list(range(n))
    assert (len(split.train), len(split.validation)) == (int(0.7 * n), int(0.1 * n))
    assert all(
        (a == b).all()
        for a, b in zip(parts(split), parts(shuffled_split(n, seed=seed)), strict=True)
    )


def test_the_books_numbers() -> None:
    assert [len(part) for part in parts(shuffled_split(1494, seed=123))] == [1045, 149, 300]


def test_the_sms_spam_collection(lastblock_data: Path) -> None:
    examples = load("sms-spam")
    split = stratified_split(examples.texts, examples.labels, seed=123)
    train, validation, test = (examples.take(part) for part in parts(split))
    for part, fraction in zip((train, validation, test), FRACTIONS, strict=True):
        assert len(part) == pytest.approx(fraction * 5574, abs=2)
        assert Counter(part.labels)["spam"] == pytest.approx(fraction * 747, abs=2)
    assert count_shared(train.texts, test.texts) == 0
    assert count_shared(train.texts, validation.texts) == 0


def test_the_draw_is_the_books(lastblock_data: Path) -> None:
    """Rows of the UCI file that pandas draws: sample the ham, append the spam, shuffle, seed 123.

    Made with ``pd.concat([ham.sample(747, random_state=123), spam]).sample(frac=1,
    random_state=123).index`` (pandas 3.1), the file read without quoting.
    """
    rows = undersample(load("sms-spam").labels, seed=123)
    split = shuffled_split(len(rows), seed=123)
    assert rows[split.train][:8].tolist() == [2087, 3900, 881, 1172, 2170, 5058, 1827, 4931]


# ------------------------------------------------------------------ groups, times, hashes, folds


@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from("wx"), st.integers(0, 8))),
    SEEDS,
)
def test_groups_stay_on_one_side(rows: list[tuple[str, str, int]], seed: int) -> None:
    rows = [*rows, ("z", "w", 9)]
    texts, labels, groups = map(list, zip(*rows, strict=True))
    given_groups = [group or None for group in groups]  # 0: none
    split = stratified_split(texts, labels, seed=seed, groups=[given_groups])
    assert sorted(np.concatenate(parts(split)).tolist()) == list(range(len(rows)))
    for values in (texts, given_groups):
        sides = [{values[row] for row in part} - {None} for part in parts(split)]
        assert sum(map(len, sides)) == len(set(values) - {None})


def test_groups_that_tie_nothing_change_nothing() -> None:
    texts, labels = distinct(50), ["x", "y"] * 25
    split = stratified_split(texts, labels, seed=1)
    same = stratified_split(texts, labels, seed=1, groups=[[*range(50)]])
    assert all((a == b).all() for a, b in zip(parts(split), parts(same), strict=True))
    kept, held = holdout(texts, labels, fraction=0.2, seed=1, groups=[[0] * 25 + [1] * 25])
    assert {len(kept), len(held)} <= {0, 25, 50}


@given(st.lists(st.text(max_size=5), min_size=1, max_size=40, unique=True), SEEDS, st.data())
def test_a_hash_split_is_stable(texts: list[str], seed: int, data: st.DataObject) -> None:
    def sides(of: list[str]) -> dict[str, int]:
        split = hash_split(of, seed=seed)
        return {of[row]: side for side, part in enumerate(parts(split)) for row in part}

    some = data.draw(st.permutations(texts))[: max(1, len(texts) // 2)]
    everything = sides(texts)
    assert set(everything) == set(texts)
    assert {text: everything[text] for text in some} == sides(some)


def test_a_hash_split_has_about_the_sizes_asked_for() -> None:
    split = hash_split(distinct(5000), seed=3)
    assert [len(part) for part in parts(split)] == pytest.approx([3500, 500, 1000], abs=120)
    split = hash_split(distinct(100), seed=3, groups=[i // 20 for i in range(100)])
    assert all(len(part) % 20 == 0 for part in parts(split))


@pytest.mark.parametrize(
    "times",
    [
        [*range(100)],
        [str(i) for i in range(100)],
        [date.fromordinal(730_000 + i) for i in range(100)],
        [datetime.fromordinal(730_000 + i).isoformat() for i in range(100)],
    ],
    ids=["numbers", "strings of numbers", "dates", "strings of dates"],
)
def test_the_newest_are_tested_on(times: list[object]) -> None:
    order = np.random.default_rng(0).permutation(100)
    split = time_split([times[i] for i in order])
    assert [sorted(order[part].tolist()) for part in parts(split)] == [
        [*range(70)],
        [*range(70, 80)],
        [*range(80, 100)],
    ]


def test_equal_times_stay_together_and_odd_ones_are_named() -> None:
    split = time_split([1] * 75 + [2] * 10 + [3] * 15)
    assert [len(part) for part in parts(split)] == [75, 10, 15]
    for times, message in (
        ([1, "", 3], "row 2 has no time"),
        (["2024-01-31", "soon"], "row 2: 'soon' is no time"),
        ([5] * 10, "the same time"),
    ):
        with pytest.raises(DataError, match=message):
            time_split(times)


@given(ROWS, st.integers(2, 6), SEEDS)
def test_folds_test_every_row_once(rows: list[tuple[str, str]], k: int, seed: int) -> None:
    texts, labels = map(list, zip(*rows, strict=True))
    if len(set(texts)) < k:
        with pytest.raises(ConfigError, match="folds of"):
            folds(texts, labels, k=k, seed=seed)
        return
    pairs = folds(texts, labels, k=k, seed=seed)
    assert sorted(np.concatenate([test for _, test in pairs]).tolist()) == list(range(len(rows)))
    for train, test in pairs:
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(rows)))
        assert not {texts[row] for row in train} & {texts[row] for row in test}


def test_folds_are_of_equal_size_and_classes() -> None:
    labels = ["x"] * 60 + ["y"] * 33
    for _, test in folds(distinct(93), labels, k=3, seed=5):
        assert Counter(labels[row] for row in test) == {"x": 20, "y": 11}


def test_a_split_can_be_had_again(tmp_path: Path) -> None:
    examples = Examples(distinct(60), ["x", "y"] * 30, "here.csv")
    split = stratified_split(examples.texts, examples.labels, seed=1)
    drawn = {
        name: examples.take(part)
        for name, part in zip(("train", "validation", "test"), parts(split), strict=True)
    }
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split_record(drawn, "here.csv")))
    again = read_split(path, examples)
    assert all((a == b).all() for a, b in zip(parts(split), parts(again), strict=True))
    with pytest.raises(DataError, match="made of other texts"):
        read_split(path, Examples(["other"] * 60, examples.labels, "here.csv"))
    with pytest.raises(DataError, match=r"row \d+ is not in here\.csv"):
        read_split(path, examples.take(range(30)))
    path.write_text("{}")
    with pytest.raises(DataError, match="no split with rows"):
        read_split(path, examples)
