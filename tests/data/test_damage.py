"""Damage in texts: found, repaired where the original is certain, else left alone."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lastblock.data.damage import damages, repaired


def names(text: str) -> list[str]:
    return [kind.name for kind in damages(text)]


@pytest.mark.parametrize(
    ("damaged", "kind", "mended"),
    [
        ("cafÃ© itâ€™s 5Â°", "mojibake", "café it’s 5°"),
        ("ðŸ˜€ hi", "mojibake", "😀 hi"),  # noqa: RUF001
        ("that\x92s\x00 it", "control", "that’s it"),
        ("\ufeffa\u200bb", "invisible", "ab"),
        ("good.<br /><br />Bad <b>film</b>", "html_tags", "good.\n\nBad  film "),
        ("fish &amp; chips &#163;5", "html_entities", "fish & chips £5"),
    ],
)
def test_what_is_found_is_repaired(damaged: str, kind: str, mended: str) -> None:
    assert kind in names(damaged)
    text, done = repaired(damaged)
    assert text == mended
    assert done == [kind]


def test_what_is_lost_stays_lost() -> None:
    assert names("a\ufffdb") == ["replacement"]
    assert repaired("a\ufffdb") == ("a\ufffdb", [])


@pytest.mark.parametrize(
    "text",
    [
        "naïve café",
        "5 < 6 > 4",
        "a & b",
        "Über €5 “ok”",
        "привет",
        "日本語",
        "😀",
        "x\ty\nz",
        "Ã la carte",
    ],
)
def test_what_is_right_is_left_alone(text: str) -> None:
    assert names(text) == []
    assert repaired(text) == (text, [])


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=50))
def test_mojibake_made_on_purpose_is_undone(text: str) -> None:
    assume(not names(text))
    as_read = [bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode()]
    assert repaired("".join(as_read))[0] == text
