"""Nasty files: each gives a right result, or one clear line that names the file and the place."""

import csv
import gzip
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.cleaning import clean
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


@pytest.mark.slow
def test_a_line_of_a_hundred_megabytes_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("w") as file:
        file.write("text,label\nshort,y\n")
        for _ in range(100):
            file.write("a b " * 250_000)
        file.write(",x\n")
    code = (
        "import resource, sys; from lastblock.data.readers import read_examples;"
        "print(len(read_examples(sys.argv[1]).texts[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    characters, megabytes = map(int, done.stdout.split())
    assert characters == 100_000_000
    assert megabytes < 1200


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


def test_labels_that_are_no_finite_number(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    texts = [f"text {i}" for i in range(4)]
    pl.DataFrame({"text": texts, "label": [1.0, 2.0, float("inf"), 1.0]}).write_parquet(path)
    with pytest.raises(DataError, match=r"x\.parquet, row 3, column 'label': label inf is no"):
        read_examples(path)
    pl.DataFrame({"text": texts, "label": [1.0, None, float("nan"), 1.0]}).write_parquet(path)
    with pytest.raises(DataError, match="2 labels are empty, in rows 2, 3"):
        read_examples(path)
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,nan\nb,NaN\nc,x\n")
    found = survey(read_examples(path)).findings
    assert [f.rows for f in found if f.kind == "label_missing_names"] == [[1, 2]]


@given(st.integers(0, 60), st.lists(st.sampled_from("ab\n,x"), max_size=8).map("".join))
def test_no_row_is_lost_on_the_way_to_the_cleaned_file(
    tmp_path_factory: pytest.TempPathFactory, n: int, odd: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.csv"
    rows = [(odd * (i % 3), f" {'xyX'[i % 3]}" if i % 5 else "") for i in range(n + 1)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    examples = read_examples(path, keep_empty=True)
    found = survey(examples)
    kept, changes = clean(examples)
    assert found.rows == len(examples) == n + 1
    assert len(kept) + sum(change.action == "dropped" for change in changes) == n + 1
    assert found.usable == sum(bool(text.strip() and label.strip()) for text, label in rows)


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\n" + "".join(f"text {i},x\n" for i in range(2000)))
    stop = threading.Event()

    def grow() -> None:
        with path.open("a") as file:
            while not stop.wait(0.001):
                file.write("later,y\nlater and cut")  # a row and a half
                file.flush()

    def begin(path: Path) -> None:
        assert read_examples(path).texts[:2000] == [f"text {i}" for i in range(2000)]

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for _ in range(5):
            message = refusal_of(begin, path)
            assert message is None or "1 column where 2 are expected" in message
    finally:
        stop.set()
        writer.join()


def test_a_file_that_was_cut_off_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,x\nb,")
    with pytest.raises(DataError, match=r"1 label is empty, in row 2 \(line 3\)"):
        read_examples(path)
    path.write_text("text,label\na,x\nb")
    with pytest.raises(DataError, match=r"row 2 \(line 3\): 1 column where 2"):
        read_examples(path)
