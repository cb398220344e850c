"""Near duplicates: every pair that is joined is alike, and pairs that are alike are joined."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.near_duplicates import near_duplicate_groups, similarity


def jaccard(a: str, b: str) -> float:
    """Written anew, as the reference."""
    sets = [{text.ljust(5)[i : i + 5] for i in range(max(1, len(text) - 4))} for text in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def random_text(rng: random.Random, words: int) -> str:
    return " ".join(
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))
        for _ in range(words)
    )


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_jaccard_s(a: str, b: str) -> None:
    assert similarity(a, b) == pytest.approx(jaccard(a, b))


@given(st.lists(st.text(max_size=30), max_size=30))
def test_groups_are_connected_by_pairs_that_are_alike(texts: list[str]) -> None:
    groups = near_duplicate_groups(texts)
    assert len(groups) == len(texts)
    for a, b in itertools.combinations(range(len(texts)), 2):
        if texts[a] == texts[b]:
            assert groups[a] == groups[b]
    for group in set(groups.tolist()):
        members = sorted({text for text, of in zip(texts, groups, strict=True) if of == group})
        reached, left = {members[0]}, set(members[1:])
        while left and (
            more := {t for t in left if any(jaccard(t, known) >= 0.8 for known in reached)}
        ):
            reached |= more
            left -= more
        assert not left


@pytest.mark.parametrize("words", [12, 25, 300])
def test_planted_near_duplicates_are_found_and_nothing_else(words: int) -> None:
    rng = random.Random(words)
    texts = [random_text(rng, words) for _ in range(400)]
    changed = []
    for text in texts[:200]:
        at = rng.randrange(len(text))
        changed.append(text[:at] + "#" + text[at + 1 :])
    pairs = [(i, 400 + i) for i in range(200) if jaccard(texts[i], changed[i]) >= 0.8]
    groups = near_duplicate_groups(texts + changed)
    found = sum(groups[a] == groups[b] for a, b in pairs)
    assert found >= 0.97 * len(pairs) > 100
    assert len(set(groups.tolist())) == 600 - found


def test_a_text_of_ten_million_characters_is_bounded() -> None:
    groups = near_duplicate_groups(["a b " * 2_500_000, "other", "a b " * 2_500_000 + "x"])
    assert groups[0] == groups[2] != groups[1]
