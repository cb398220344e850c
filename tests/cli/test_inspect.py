"""``inspect``: a report for people, JSON for programs, a page, and a cleaned file with its log."""

import json
from pathlib import Path

import pytest

from lastblock.cli import run


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data.csv"
    rows = [("first text", "x", 1), ("second text", "y", 2), ("first text", "x", 3), ("", "y", 4)]
    rows += [("third cafÃ©", "Y", 5), ("fourth text", "x", 6)]
    lines = "".join(f"{text},{label},{number}\n" for text, label, number in rows)
    path.write_text("text,label,id\n" + lines, encoding="utf-8")
    return path


def test_the_report(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "6 rows, 5 with text and label, 3 classes" in printed
    assert "1 row has no text" in printed
    assert "1 row repeats an earlier row's text word for word" in printed
    assert "rows 3" in printed


def test_json_page_and_other(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "test.csv"
    other.write_text("text,label\nSecond text!,y\n")
    page = tmp_path / "page.html"
    assert run(["inspect", str(data), "--against", str(other), "--html", str(page), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["compared"]["normalised"] == 1
    assert result["rows"] == 6
    assert "data.csv" in page.read_text(encoding="utf-8")


def test_fix(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "clean.csv"
    assert run(["inspect", str(data), "--fix", str(target)]) == 0
    assert "4 of 6 rows; 2 dropped, 1 texts and 1 labels changed" in capsys.readouterr().err
    lines = target.read_text(encoding="utf-8").splitlines()
    assert lines[0] == '"text","label","id"'
    assert lines[3] == '"third café","y","5"'
    assert len((tmp_path / "clean.changes.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert run(["inspect", str(data), "--fix", "x.xlsx"]) == 2


def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(tmp_path / "no.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
