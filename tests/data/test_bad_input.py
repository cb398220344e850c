"""Nasty files: each gives a right result, or one clear line that names the file and the place."""

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.examples import Examples
from lastblock.data.inspection import check_trainable
from lastblock.data.readers import read_examples, read_texts
from lastblock.data.survey import survey
from lastblock.errors import DataError

SUFFIXES = [
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".parquet",
    ".arrow",
    ".csv.gz",
    ".csv.zst",
    ".txt",
    "",
]


def refusal_of(read: Any, path: Path, **options: Any) -> str | None:
    """The one line with which a file is refused, or None if it is read."""
    try:
        read(path, **options)
    except DataError as error:
        message = str(error)
    else:
        return None
    assert "\n" not in message
    return message


@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_any_bytes_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"x{suffix}"
    path.write_bytes(content)
    for read in (read_examples, read_texts):
        message = refusal_of(read, path)
        assert message is None or str(path) in message


@given(st.text(alphabet='",;\t\n\r|ab \ufeff\x85', max_size=60), st.sampled_from([".csv", ".tsv"]))
def test_nothing_between_delimiters_is_lost(
    tmp_path_factory: pytest.TempPathFactory, content: str, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("text") / f"x{suffix}"
    path.write_bytes(b"text\tlabel\n" if suffix == ".tsv" else b"text,label\n")
    with path.open("ab") as file:
        file.write(content.encode())
    if refusal_of(read_examples, path, keep_empty=True) is not None:
        return
    examples = read_examples(path, keep_empty=True)
    kept = "".join(examples.texts) + "".join(map(str, examples.labels))
    for letter in "ab\x85\ufeff":
        assert kept.count(letter) == content.count(letter)


@given(st.integers(0, 400))
def test_a_file_cut_off_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    frame = pl.DataFrame({"text": ["some text"] * 5, "label": ["x"] * 5})
    frame.write_parquet(folder / "x.parquet")
    frame.write_ipc(folder / "x.arrow")
    (folder / "x.csv.gz").write_bytes(gzip.compress(frame.write_csv().encode()))
    for path in folder.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: min(length, len(whole) - 1)])
        with pytest.raises(DataError) as caught:
            read_examples(path)
        assert "\n" not in str(caught.value)


def test_a_line_of_ten_megabytes_and_a_text_of_ten_million_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "a b " * 2_500_000 + ",x\nshort,y\n")
    examples = read_examples(path)
    assert len(examples.texts[0]) == 10_000_000
    assert survey(examples).lengths["characters"]["longest"] == 10_000_000
    path.write_text("text,label " * 1_000_000)
    with pytest.raises(DataError, match=r"x\.csv"):
        read_examples(path)


def test_mixed_line_ends_and_a_mark_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("text,label\r\na,x\nb,y\rc,x\r\n\ufeffd,y\n".encode())
    examples = read_examples(path)
    assert examples.texts == ["a", "b", "c", "\ufeffd"]
    assert [
        finding.rows for finding in survey(examples).findings if finding.kind == "invisible"
    ] == [[4]]


def test_ten_thousand_classes_and_one(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "".join(f"text {i},class {i}\n" for i in range(10_000)))
    with pytest.raises(
        DataError, match=r"'class 4' and 9,?995 more have a single example"
    ) as caught:
        check_trainable(read_examples(path))
    assert len(str(caught.value)) < 400
    with pytest.raises(DataError, match="only one class"):
        check_trainable(Examples(["a", "b"], ["x", "x"], "here"))


def test_a_file_that_grows_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,x\nb,")
    with pytest.raises(DataError, match=r"1 label is empty, in row 2 \(line 3\)"):
        read_examples(path)
    path.write_text("text,label\na,x\nb")
    with pytest.raises(DataError, match=r"row 2 \(line 3\): 1 column where 2"):
        read_examples(path)
