"""Formats other than CSV, folders and objects: the same examples come out of each."""

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pandas
import polars as pl
import pytest

from lastblock.config import ReadOptions
from lastblock.data.examples import Examples
from lastblock.data.readers import from_object, read_examples, read_texts
from lastblock.errors import DataError

TEXTS = ["first, of “all”", "line\nbreak", "third"]
LABELS = ["x", "y", "x"]
FRAME = pl.DataFrame({"id": [1, 2, 3], "text": TEXTS, "label": LABELS, "nested": [{"a": [1]}] * 3})
RECORDS = FRAME.select("id", "text", "label").to_dicts()


def json_lines() -> bytes:
    return "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def write_all(folder: Path) -> list[Path]:
    flat = FRAME.select("id", "text", "label")
    FRAME.write_parquet(folder / "a.parquet")
    FRAME.write_parquet(folder / "parquet without a suffix")
    FRAME.write_ipc(folder / "a.arrow")
    FRAME.write_ipc(folder / "a.feather", compression="zstd")
    FRAME.write_ipc_stream(folder / "stream.arrow")
    flat.write_csv(folder / "a.csv.zst", compression="zstd")
    (folder / "a.csv.gz").write_bytes(gzip.compress(flat.write_csv().encode()))
    (folder / "gzip by another name.csv").write_bytes(gzip.compress(flat.write_csv().encode()))
    (folder / "a.jsonl").write_bytes(json_lines())
    (folder / "a.ndjson.gz").write_bytes(gzip.compress(json_lines()))
    (folder / "lines of json").write_bytes(json_lines())
    (folder / "a.json").write_text(json.dumps(RECORDS))
    (folder / "lines.json").write_bytes(json_lines())
    (folder / "columns.json").write_text(json.dumps({"text": TEXTS, "label": LABELS}))
    (folder / "within.json").write_text(json.dumps({"version": 1, "data": RECORDS}))
    return sorted(folder.iterdir())


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    paths = write_all(tmp_path)
    assert len(paths) == 15
    for path in paths:
        examples = read_examples(path)
        assert (examples.texts, examples.labels) == (TEXTS, LABELS), path
        assert examples.source == str(path)


def test_a_pattern_and_a_folder_join_their_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} 1,x\n{name} 2,y\n")
    for source in (tmp_path, tmp_path / "*.csv"):
        examples = read_examples(source)
        assert examples.texts == ["a 1", "a 2", "b 1", "b 2"]
        assert any("read 2 files" in note for note in examples.notes)
    (tmp_path / "b.csv").write_text("text,label\nb 1,x\n,y\n")
    with pytest.raises(DataError, match=r"in row 2 \(line 3\) of .*b\.csv"):
        read_examples(tmp_path)
    (tmp_path / "b.csv").write_text("text,kind\nb,x\n")
    with pytest.raises(DataError, match=r"b\.csv and .*a\.csv differ in the columns 'kind', 'la"):
        read_examples(tmp_path)
    with pytest.raises(DataError, match="no file matches"):
        read_examples(tmp_path / "*.tsv")


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for label, name, text in (
        ("neg", "1.txt", "bad\n"),
        ("pos", "1.txt", "good"),
        ("pos", "2", "x"),
    ):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / name).write_text(text)
    (tmp_path / "pos" / ".hidden").write_text("no")
    examples = read_examples(tmp_path)
    assert (examples.texts, examples.labels) == (["bad", "good", "x"], ["neg", "pos", "pos"])
    assert any("1 hidden files were left out" in note for note in examples.notes)
    (tmp_path / "pos" / "2").write_text(" ")
    with pytest.raises(DataError, match=r"1 text is empty, in row 3 \(pos/2\)"):
        read_examples(tmp_path)
    assert read_examples(tmp_path, keep_empty=True).texts == ["bad", "good", ""]
    (tmp_path / "pos" / "deeper").mkdir()
    with pytest.raises(DataError, match="is a folder where a text file is expected"):
        read_examples(tmp_path)


def test_a_saved_data_set_has_its_classes_named(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    numbered = pl.DataFrame({"text": TEXTS, "label": [1, 0, 1]})
    numbered[:1].write_ipc_stream(folder / "data-00000-of-00002.arrow")
    numbered[1:].write_ipc_stream(folder / "data-00001-of-00002.arrow")
    files = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    info = {"features": {"label": {"names": ["y", "x"], "_type": "ClassLabel"}, "text": {}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    examples = read_examples(folder)
    assert (examples.texts, examples.labels) == (TEXTS, LABELS)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    with pytest.raises(DataError, match=r"holds the data sets 'train'; name one: .*/train"):
        read_examples(tmp_path)


def test_standard_input_is_any_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in write_all(tmp_path):
        pipe = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
        monkeypatch.setattr(sys, "stdin", pipe)
        assert read_examples("-").texts == TEXTS, path


def test_texts_alone_come_from_every_table(tmp_path: Path) -> None:
    for path in write_all(tmp_path):
        assert read_texts(path, text_column="text") == TEXTS
        if path.suffix:
            assert read_texts(path) == TEXTS


class Dataset:
    """What is used of a dataset of the ``datasets`` library."""

    column_names = ("text", "label")

    @property
    def features(self) -> dict[str, Any]:
        return {"text": None, "label": type("ClassLabel", (), {"names": ["y", "x"]})}

    def __getitem__(self, name: str) -> list[Any]:
        return TEXTS if name == "text" else [1, 0, 1]


@pytest.mark.parametrize(
    "data",
    [
        FRAME,
        RECORDS,
        {"text": TEXTS, "label": LABELS},
        list(zip(TEXTS, LABELS, strict=True)),
        Dataset(),
        Examples(TEXTS, [*LABELS], "here"),
    ],
    ids=["polars", "records", "columns", "pairs", "datasets", "examples"],
)
def test_objects_are_taken(data: Any) -> None:
    examples = from_object(data)
    assert (examples.texts, examples.labels) == (TEXTS, LABELS)


def test_a_pandas_frame_is_taken() -> None:
    frame = pandas.DataFrame({"text": TEXTS, "label": [1.0, None, 2.0]})
    assert from_object(frame, keep_empty=True).labels == [1, "", 2]


def test_other_objects_are_refused() -> None:
    for data, what in ((3, "of type int"), ([], "empty"), ([1, 2], "a list"), (None, "null")):
        with pytest.raises(DataError, match=f"the data given is {what}; give a table"):
            from_object(data)
    with pytest.raises(DataError, match="columns of unequal length"):
        from_object({"text": ["a"], "label": []})


# ------------------------------------------------------------------ columns and labels


def test_columns_are_found_by_content(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{'ham' if i % 3 else 'spam'},some words of row {i}" for i in range(30))
    path = tmp_path / "x.csv"
    path.write_text(f"nr,v1,v2\n{rows}\n")
    examples = read_examples(path)
    assert (examples.texts[1], examples.labels[1]) == ("some words of row 1", "ham")
    assert any("column 'v2' as text and 'v1' as label" in note for note in examples.notes)
    path.write_text(f"{rows}\n")
    examples = read_examples(path)
    assert len(examples) == 30
    assert any("it has no header" in note for note in examples.notes)
    path.write_text(f"0,1,2\n{rows}\n")
    assert len(read_examples(path)) == 30


def test_two_columns_that_could_be_it_are_listed(tmp_path: Path) -> None:
    rows = "\n".join(f"words of {i} a,words of {i} b,{i % 2}" for i in range(30))
    path = tmp_path / "x.csv"
    path.write_text(f"a,b,label\n{rows}\n")
    with pytest.raises(DataError, match=r"no text column found .* \(2 could be it\); the columns"):
        read_examples(path)


def test_several_columns_are_joined_by_a_template(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("title,body,label\na,b,x\n,d,y\n")
    examples = read_examples(path, text_column="{title}\\n{body}!")
    assert examples.texts == ["a\nb!", "\nd!"]
    assert read_texts(path, text_column="{body}, {Title}") == ["b, a", "d, "]
    with pytest.raises(DataError, match="no column 'nope'"):
        read_examples(path, text_column="{title} {nope}")
    path.write_text("title,body,label\na,b,x\n, ,y\n")
    with pytest.raises(DataError, match=r"columns 'title', 'body': 1 text is empty, in row 2"):
        read_examples(path, text_column="{title}: {body}")


def test_more_columns_are_carried_along(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label,who,when\na,x,me,1\nb,y,you,2\n")
    examples = read_examples(path, keep=["Who"])
    assert examples.columns == {"Who": ["me", "you"]}
    assert examples.take([1]).columns == {"Who": ["you"]}
    assert [*examples.take([1]).row_ids()] == [1]
    assert [*examples.take([1, 0]).take([1]).row_ids()] == [0]
    assert [*read_examples(path, keep=None).columns] == ["who", "when"]


@pytest.mark.parametrize(
    ("labels", "expected", "note"),
    [
        ([1, 2], [1, 2], None),
        ([1.0, 2.0], [1, 2], "whole numbers"),
        (["1.0", "2.0"], ["1", "2"], "whole numbers"),
        ([True, False], ["true", "false"], "truth values"),
        ([["a", "b"], ["c"]], ["a|b", "c"], "joined with '|'"),
        ([1, "a"], ["1", "a"], "several kinds"),
    ],
)
def test_kinds_of_labels(labels: list[Any], expected: list[Any], note: str | None) -> None:
    examples = from_object({"text": ["t", "u"], "label": labels})
    assert examples.labels == expected
    assert [type(label) for label in examples.labels] == [type(label) for label in expected]
    assert any(note in said for said in examples.notes) if note else len(examples.notes) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"], "label": [0.5]}, "label 0.5 is no whole number"),
        ({"text": ["a"], "label": [float("nan")]}, "column 'label': 1 label is empty, in row 1"),
        ({"text": [{"a": 1}], "label": [1]}, "holds a dict, not a text"),
        ({"text": ["a"], "label": [["x|y"]]}, "a label holds '|'"),
    ],
)
def test_what_is_no_text_or_label(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        from_object(columns)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_separator_joins_lists() -> None:
    options = ReadOptions(label_separator=";")
    examples = from_object({"text": ["a"], "label": [["x|y", "z"]]}, options=options)
    assert examples.labels == ["x|y;z"]


# ------------------------------------------------------------------ bad input


# Of no time of day, by which a test would have another name every second.
CUT_OFF = gzip.compress(b"text,label\na,x\n", mtime=0)[:-6]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv.gz", CUT_OFF, "gzip file is damaged or cut off"),
        ("x.csv.gz", b"\x1f\x8bnot really", "gzip file is damaged"),
        ("x.csv.zst", b"\x28\xb5\x2f\xfdnot really", "zstd file is damaged"),
        ("x.parquet", b"PAR1 not really PAR1", "cannot be read as Parquet"),
        ("x.arrow", b"ARROW1\0\0 not really", "cannot be read as Arrow"),
        ("x.arrow", b"nor this", "cannot be read as Arrow"),
        ("x.json", b'{"text": "a"', "not JSON at line 1, column 13"),
        ("x.json", b"3", "is of type int"),
        ("x.json", b"[" * 100_000, "nested too deeply"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text"\n', "line 2: not JSON at column 8"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2: holds a list, not an object"),
        (
            "x.jsonl",
            b'{"text": "a", "label": 1}\n{"text": "b"}\n',
            "label is empty, in row 2 (line",
        ),
    ],
)
def test_damaged_files_are_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_examples(tmp_path / name)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
