"""What is put right, what is dropped, and that every row is accounted for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.cleaning import Change, clean, write_changes, write_examples
from lastblock.data.examples import Examples
from lastblock.data.readers import read_examples
from lastblock.errors import ConfigError

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["", " ", "a", "b", "c", "cafÃ©", "café", "x\x00"]),
        st.sampled_from(["", "x", "X", "x ", "y"]),
    )
)


def test_every_kind_of_change() -> None:
    rows = [
        *(("a", "x"), ("a", "x"), ("b", "X "), ("", "y"), ("c", ""), ("d &amp; e", "y")),
        *(("f", "x"), ("f", "y"), ("g", "x"), ("g", "y"), ("g", "x")),
    ]
    texts, labels = map(list, zip(*rows, strict=True))
    kept, changes = clean(Examples(texts, [*labels], "here"))
    assert kept.texts == ["a", "b", "d & e", "g"]
    assert kept.labels == ["x", "x", "y", "x"]
    assert [*kept.row_ids()] == [0, 2, 5, 8]
    assert [(change.row, change.action, change.reason) for change in changes] == [
        (2, "dropped", "repeats row 1"),
        (3, "label", "case or blanks"),
        (4, "dropped", "no text"),
        (5, "dropped", "no label"),
        (6, "text", "html_entities"),
        (7, "dropped", "the same text stands under y"),
        (8, "dropped", "the same text stands under x"),
        (10, "dropped", "the same text stands under x"),
        (11, "dropped", "repeats row 9"),
    ]


@given(ROWS)
def test_every_row_stays_or_is_recorded_and_a_second_time_changes_nothing(
    rows: list[tuple[str, str]],
) -> None:
    examples = Examples([text for text, _ in rows], [label for _, label in rows], "here")
    kept, changes = clean(examples)
    dropped = [change.row - 1 for change in changes if change.action == "dropped"]
    assert sorted([*dropped, *kept.row_ids().tolist()]) == list(range(len(rows)))
    assert len(set(kept.texts)) == len(kept)
    again, more = clean(kept)
    assert (again.texts, again.labels, more) == (kept.texts, kept.labels, [])


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    texts = ['a "b"', "c\nd\te", "f\rg", "h, i"]
    examples = Examples(texts, ["x", "y", "x", "y"], "here", columns={"id": ["1", "2", "3", "4"]})
    write_examples(examples, tmp_path / name)
    again = read_examples(tmp_path / name, keep=["id"])
    assert (again.texts, again.labels, again.columns) == (texts, examples.labels, examples.columns)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_changes_are_written_and_other_names_refused(tmp_path: Path) -> None:
    write_changes([Change(3, "text", "mojibake", "a\nb", "c")], tmp_path / "log.csv")
    assert (tmp_path / "log.csv").read_text().splitlines()[0].startswith('"row","action"')
    with pytest.raises(ConfigError, match=r"x\.xlsx: name a file that ends in \.csv"):
        write_changes([], tmp_path / "x.xlsx")
