"""Files too large to hold are read as the whole-file readers read them, part by part."""

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lastblock.config import ReadOptions
from lastblock.data import streaming
from lastblock.data.readers import read_texts
from lastblock.data.streaming import open_texts
from lastblock.errors import DataError

TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)
    .filter(str.strip)
    .map(lambda text: text + "x"),
    min_size=1,
    max_size=40,
)


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WHOLE_BYTES", 0)
    monkeypatch.setattr(streaming, "PART_ROWS", 7)
    monkeypatch.setattr(streaming, "PARQUET_ROWS", 9)


def write(path: Path, texts: list[str]) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if path.suffix == ".parquet":
        polars.DataFrame(rows).write_parquet(path, row_group_size=10)
        return
    if path.name.startswith("rows.jsonl"):
        content = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([["id", "text"], *([row["id"], row["text"]] for row in rows)])
        content = file.getvalue()
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet", "rows.csv.gz", "rows.jsonl.gz"]
)
@given(texts=TEXTS)
@settings(max_examples=20, deadline=None)
def test_a_stream_holds_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory, name: str, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("stream") / name
    write(path, texts)
    parts = list(open_texts(path).parts())
    assert [text for part in parts for text in part] == texts
    assert read_texts(path, text_column="text") == texts
    assert all(len(part) == 7 for part in parts[:-1])


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_an_empty_text_far_down_is_named_by_its_row(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [f"text {i}" for i in range(30)] + [" "] + ["more"] * 5)
    for read in (lambda: read_texts(path), lambda: open_texts(path)):
        with pytest.raises(DataError, match="row 31"):
            read()


def test_a_row_too_short_far_down_is_named_by_row_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + '1,"two\nlines"\n' * 20 + "alone\n" + "2,more\n" * 9)
    with pytest.raises(DataError, match=r"row 21 \(line 42\): 1 column where 2 are expected"):
        open_texts(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"text\n" + b"good\n" * 50 + b"bad \xff\n", "not utf-8"),
        (b"text\n" + b"good\n" * 50 + b"bad \0\n", "NUL byte in line 52"),
        (b"text\n" + b"good\n" * 50 + b'"never closed\n', "row 51"),
        (gzip.compress(b"text\n" + b"good\n" * 50)[:-9], "gzip"),
    ],
    ids=["encoding", "nul", "quote", "gzip"],
)
def test_damage_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / ("rows.csv.gz" if content[:2] == b"\x1f\x8b" else "rows.csv")
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_texts(path)


def test_options_and_templates_hold_for_every_part(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("".join(f"{i};é{i}\n" for i in range(20)).encode("cp1252"))
    options = ReadOptions(encoding="cp1252", delimiter=";", header=False)
    parts = open_texts(path, text_column="{column 1}: {column 2}", options=options).parts(3)
    assert [text for part in parts for text in part] == [f"{i}: é{i}" for i in range(3, 20)]


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PART_ROWS", 100)
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + ("word " * 200 + "\n") * 12_000)  # 12 MB
    tracemalloc.start()
    try:
        texts = open_texts(path)
        assert sum(len(part) for part in texts.parts()) == len(texts) == 12_000
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()
