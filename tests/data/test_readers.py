"""Files as people have them: a right result, or one line with file, row and remedy."""

import csv
import io
import re
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lastblock.config import ReadOptions
from lastblock.data.examples import Examples
from lastblock.data.readers import read_examples, read_texts, read_unquoted
from lastblock.errors import ConfigError, DataError

# What a cell of text may hold: everything but NUL, the lone surrogates that UTF-8 cannot hold, and
# what str.strip would call empty.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(folder: Path, name: str, content: str | bytes, **columns: str) -> str:
    """The message with which a file of this content is refused."""
    with pytest.raises(DataError) as caught:
        read_examples(write(folder, name, content), **columns)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    return message


@example([("0", "0.0")])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_what_a_csv_writer_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    content = io.StringIO(newline="")
    # Not csv.QUOTE_MINIMAL: its writer leaves a lone \r unquoted.
    csv.writer(content, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_bytes(content.getvalue().encode())
    examples = read_examples(path)
    labels = [label for _, label in rows]
    # 1.0 and the like, in every row, are what other programs make of whole numbers; it is told.
    whole = all(re.fullmatch(r"[+-]?\d+\.0+", label) for label in labels)
    assert any("whole numbers" in note for note in examples.notes) == whole
    expected = [label.partition(".")[0] for label in labels] if whole else labels
    assert examples.labels == expected
    assert examples.texts == [text for text, _ in rows]


def test_quotes_commas_newlines_and_next_line_characters_are_text(tmp_path: Path) -> None:
    content = 'text,label\r\n"a, ""b""\nc\x85d",x\r\ne\x85f,y\r\n'
    examples = read_examples(write(tmp_path, "x.csv", content))
    assert examples.texts == ['a, "b"\nc\x85d', "e\x85f"]
    assert examples.labels == ["x", "y"]


def test_a_text_of_any_length_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    examples = read_examples(write(tmp_path, "x.csv", "text,label\n" + "a" * 1_000_000 + ",x\n"))
    assert len(examples.texts[0]) == 1_000_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    "content",
    [
        "\ufefftext,label\na,x\nb,y\n",
        "text,label\ra,x\rb,y",
        "id,Label,MESSAGE\n1,x,a\n2,y,b\n",
        "category;content\nx;a\ny;b\n",
        "label\ttext\nx\ta\ny\tb\n",
        "text,label\n\na,x\n\nb,y\n\n",
    ],
    ids=["byte-order mark", "old line ends", "other columns", "semicolons", "tabs", "blank lines"],
)
def test_header_and_separator_are_found(tmp_path: Path, content: str) -> None:
    examples = read_examples(write(tmp_path, "x.csv", content))
    assert (examples.texts, examples.labels) == (["a", "b"], ["x", "y"])
    assert any("as text and" in note for note in examples.notes)


def test_labels_stay_strings(tmp_path: Path) -> None:
    assert read_examples(write(tmp_path, "x.csv", "text,label\na,1\nb,02\n")).labels == ["1", "02"]


def test_named_columns_win_over_known_names(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "text,title,label,kind\na,b,x,y\n")
    examples = read_examples(path, text_column="Title", label_column="kind")
    assert (examples.texts, examples.labels, examples.notes) == (["b"], ["y"], ())


# ------------------------------------------------------------------ quotation marks in TSV


def read_tsv(folder: Path, content: str) -> Examples:
    return read_examples(write(folder, "x.tsv", content), text_column="text", label_column="label")


def test_a_quotation_never_closed_swallows_no_line_of_a_tsv(tmp_path: Path) -> None:
    examples = read_tsv(tmp_path, 'label\ttext\nham\t"so\nham\tb\nspam\tc"\nham\td\n')
    assert examples.texts == ['"so', "b", 'c"', "d"]
    assert "read as part of the text" in examples.notes[0]


def test_a_quotation_in_a_tsv_is_text_when_csv_rules_fail(tmp_path: Path) -> None:
    examples = read_tsv(tmp_path, 'label\ttext\nham\t"so" he said\nspam\tc\n')
    assert examples.texts == ['"so" he said', "c"]
    assert "read as part of the text" in examples.notes[0]


@pytest.mark.parametrize(
    "field", ['"a ""b"""', '"a\nb"', '"a\tb"', '"a"'], ids=["doubled", "newline", "tab", "plain"]
)
def test_a_tsv_that_is_quoted_is_read_so(tmp_path: Path, field: str) -> None:
    examples = read_tsv(tmp_path, f"text\tlabel\n{field}\tx\nc\ty\n")
    assert examples.texts == [field[1:-1].replace('""', '"'), "c"]
    assert "taken off" in examples.notes[0]


def test_quotation_marks_inside_tsv_fields_need_no_note(tmp_path: Path) -> None:
    examples = read_tsv(tmp_path, 'text\tlabel\na "b" c\tx\n')
    assert (examples.texts, examples.notes) == (['a "b" c'], ())


# ------------------------------------------------------------------ bad input


def test_missing_folder_and_empty_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_examples(tmp_path / "gone.csv")
    with pytest.raises(DataError, match="holds no folder a class and no table; name a file"):
        read_examples(tmp_path)
    for content in ("", "\n \n", "\ufeff"):
        assert "is empty" in refusal(tmp_path, "x.csv", content)
    assert "no rows" in refusal(tmp_path, "x.csv", "text,label\n")


def test_a_file_without_header_is_told_from_one_with_other_names(tmp_path: Path) -> None:
    raw = "ham\tGo until jurong point\nham\tOk lar\nspam\tFree entry\n"
    message = refusal(tmp_path, "x.tsv", raw)
    assert "has no header" in message
    assert "'ham'" in message
    message = refusal(tmp_path, "x.csv", "v1,v2\nham,a\nspam,b\n")
    assert "no label column found by name or content; the columns are 'v1' ('ham', 'sp" in message
    assert "--label-column" in message
    message = refusal(tmp_path, "x.csv", "v1,v2\nham,a\nspam,b\n", label_column="v1")
    assert "no text column found by name or content; the columns are 'v1'" in message
    assert "--text-column" in message


def test_a_missing_column_lists_those_there_are_with_three_values(tmp_path: Path) -> None:
    message = refusal(tmp_path, "x.csv", "text,kind\na,x\nb,y\nc,z\nd,w\n")
    assert "'text' ('a', 'b', 'c'), 'kind' ('x', 'y', 'z'): name one" in message
    assert "--label-column" in message
    message = refusal(tmp_path, "x.csv", "text,kind\na,x\n", label_column="nope")
    assert "no column 'nope'; the columns are 'text' ('a'), 'kind' ('x')" in message


def test_columns_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    assert "2 columns are called 'text'" in refusal(tmp_path, "x.csv", "text,text,label\na,b,x\n")
    message = refusal(
        tmp_path, "x.csv", "text,label\na,x\n", text_column="text", label_column="text"
    )
    assert "cannot be both" in message


@pytest.mark.parametrize(
    ("bad", "place"), [("c", "1 column where 2"), ("c,y,z", "3 columns where 2")]
)
def test_ragged_rows_are_named(tmp_path: Path, bad: str, place: str) -> None:
    message = refusal(tmp_path, "x.csv", f'text,label\n"a\nb",x\n{bad}\nd,y\n{bad}\n')
    assert f"row 2 (line 4): {place}" in message
    assert "1 more" in message


def test_quotation_errors_name_the_line_where_they_start(tmp_path: Path) -> None:
    message = refusal(tmp_path, "x.csv", 'text,label\na,x\n"b,y\nc,z\n')
    assert "row 2 (line 3): a quotation mark is opened here and never closed" in message
    message = refusal(tmp_path, "x.csv", 'text,label\na,x\n"b" c,y\n')
    assert "row 2 (line 3): something follows a closing quotation mark" in message


def test_empty_texts_and_labels_are_counted_and_placed(tmp_path: Path) -> None:
    message = refusal(tmp_path, "x.csv", 'text,label\na,x\n"  ",y\nb,x\n,y\n')
    assert "column 'text': 2 texts are empty, in rows 2 (line 3), 4 (line 5)" in message
    assert "delete them" in message
    message = refusal(tmp_path, "x.csv", "text,label\na,x\nb,\n")
    assert "column 'label': 1 label is empty, in row 2 (line 3); fill in or delete it" in message
    message = refusal(tmp_path, "x.csv", "text,label\n" + ",x\n" * 20)
    assert "20 texts are empty" in message
    assert "row 20" not in message


def test_damaged_utf8_names_byte_and_line_and_is_not_guessed_at(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        content = mark + "text,label\nzwölf, naïve\n".encode() + b"caf\xe9,x\n"
        message = refusal(tmp_path, "x.csv", content)
        assert f"byte 0xe9 at offset {content.index(0xE9)} (line 3)" in message
        assert "save it as UTF-8" in message
    assert "byte 0x81" in refusal(tmp_path, "x.csv", b"text,label\n\x81,x\n")


def test_a_nul_byte_is_placed(tmp_path: Path) -> None:
    for mark in ("", "\ufeff"):
        content = f"{mark}text,label\nä\0,x\n".encode()
        message = refusal(tmp_path, "x.csv", content)
        assert f"NUL byte at offset {content.index(0)} (line 2)" in message


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-16", "read as UTF-16"),
        ("utf-16-le", "read as UTF-16-LE"),
        ("utf-16-be", "read as UTF-16-BE"),
        ("utf-32", "read as UTF-32"),
        ("cp1252", "byte 0xfc at offset 12 (line 2)): read as Windows-1252"),
    ],
)
def test_other_encodings_are_found_and_said(tmp_path: Path, encoding: str, note: str) -> None:
    content = "text,label\nfür “me”,x\nplain,y\n".encode(encoding)
    examples = read_examples(write(tmp_path, "x.csv", content))
    assert examples.texts == ["für “me”", "plain"]
    assert any(note in said for said in examples.notes)


def test_a_given_encoding_is_used_and_checked(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "text,label\nžluťoučký,x\n".encode("cp1250"))
    assert read_examples(path, options=ReadOptions(encoding="cp1250")).texts == ["žluťoučký"]
    with pytest.raises(DataError, match=r"is not ascii: .* give another --encoding"):
        read_examples(path, options=ReadOptions(encoding="ascii"))
    with pytest.raises(ConfigError, match="--encoding is 'klingon'"):
        ReadOptions(encoding="klingon")


def test_a_given_delimiter_header_and_quoting_are_used(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", "text~label\na,b~x\n")
    assert read_examples(path, options=ReadOptions(delimiter="~")).texts == ["a,b"]
    path = write(tmp_path, "y.txt", 'label\ttext\nx\t"a"\n')
    for quoting, text in ((True, "a"), (False, '"a"')):
        options = ReadOptions(delimiter="tab", quoting=quoting)
        assert read_examples(path, options=options).texts == [text]
    path = write(tmp_path, "z.csv", "text,label\na,x\n")
    options = ReadOptions(header=False)
    examples = read_examples(path, text_column="column 1", label_column="column 2", options=options)
    assert examples.texts == ["text", "a"]
    with pytest.raises(ConfigError, match="--delimiter is 'ab'"):
        ReadOptions(delimiter="ab")


# ------------------------------------------------------------------ texts alone


def test_texts_are_read_from_a_column_or_line_by_line(tmp_path: Path) -> None:
    table = write(tmp_path, "x.csv", 'id,text\n1,"a\nb"\n2,c\n')
    assert read_texts(table) == ["a\nb", "c"]
    assert read_texts(table, text_column="id") == ["1", "2"]
    assert read_texts(write(tmp_path, "x.txt", "a, b\r\nc\x85d\n\n")) == ["a, b", "c\x85d"]
    with pytest.raises(DataError, match=r"x\.txt: 1 text is empty, in line 2"):
        read_texts(write(tmp_path, "x.txt", "a\n \nb\n"))


def test_texts_of_folders_patterns_and_a_single_column(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "1.txt", f"text {name}")
    assert read_texts(tmp_path) == ["text a", "text b"]
    write(tmp_path, "1.csv", "what\nx\n")
    write(tmp_path, "2.csv", "what\ny\n")
    assert read_texts(tmp_path / "*.csv") == ["x", "y"]
    lines = write(tmp_path, "3.txt", "x;y\n")
    options = ReadOptions(delimiter=";", header=False)
    assert read_texts(lines, text_column="column 2", options=options) == ["y"]


def test_texts_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("one\nzwölf\n".encode())))
    assert read_texts("-") == ["one", "zwölf"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xe9\n")))
    with pytest.raises(DataError, match="standard input is not UTF-8"):
        read_texts("-")


def test_unquoted_lines_need_one_tab_each(tmp_path: Path) -> None:
    path = write(tmp_path, "x", 'ham\t"a\nspam\tb\n')
    assert read_unquoted(path, "x").texts == ['"a', "b"]
    with pytest.raises(DataError, match=r"row 2 \(line 2\): 3 columns where 2"):
        read_unquoted(write(tmp_path, "x", "ham\ta\nspam\tb\tc\n"), "x")


# ------------------------------------------------------------------ real data


def test_real_files_are_read_as_polars_reads_them(lastblock_data: Path) -> None:
    files = sorted(lastblock_data.glob("*/*.csv"))
    assert len(files) == 14
    for path in files:
        expected = pl.read_csv(path, infer_schema=False)
        examples = read_examples(path)
        assert examples.texts == expected["text"].to_list()
        assert examples.labels == expected["label"].to_list()
