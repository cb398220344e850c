"""``predict``: where texts come from, where results go, and what is refused."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lastblock.cli import run
from lastblock.decision import Decision
from lastblock.inference import TextModel

NASTY = 'tab\there, "quoted", two\nlines, naïve 🎉'


class Model(TextModel):
    """Labels 0 and 1 by whether the text is long; integers, to see that they stay so."""

    def __init__(self) -> None:
        self.classes, self.decision = [0, 1], Decision()

    def predict_proba(self, texts: list[str], progress: Any = None) -> np.ndarray:
        long = np.array([0.75 if len(text) > 10 else 0.125 for text in texts])
        return np.stack([1 - long, long], axis=1).reshape(-1, 2)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint: Any = types.ModuleType("lastblock.checkpoint")
    checkpoint.load = lambda folder: Model()
    monkeypatch.setitem(sys.modules, "lastblock.checkpoint", checkpoint)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return use


def test_texts_as_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "m", "short", NASTY]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "0\t0.8750\tshort",
        '1\t0.7500\ttab here, "quoted", two lines, naïve 🎉',
    ]


def test_a_text_that_looks_like_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "m", "--", "-5 °C"]) == 0
    assert capsys.readouterr().out == "0\t0.8750\t-5 °C\n"


def test_json_lines_keep_text_and_label_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "m", "short", NASTY, "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"text": "short", "label": 0, "probabilities": {"0": 0.875, "1": 0.125}},
        {"text": NASTY, "label": 1, "probabilities": {"1": 0.75, "0": 0.25}},
    ]


@pytest.mark.parametrize("arguments", [[], ["--input", "-"]])
def test_standard_input_holds_one_text_a_line(
    piped: Any, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    piped("short\na longer text\n")
    assert run(["predict", "m", *arguments]) == 0
    assert capsys.readouterr().out == "0\t0.8750\tshort\n1\t0.7500\ta longer text\n"


def test_texts_given_leave_standard_input_alone(
    piped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    piped("not read\n")
    assert run(["predict", "m", "short"]) == 0
    assert capsys.readouterr().out == "0\t0.8750\tshort\n"


def test_a_file_in_and_a_file_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    with source.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "message"], ["1", "short"], ["2", NASTY]])
    assert run(["predict", "m", "--input", str(source), "--output", str(target)]) == 0
    with target.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["text", "label", "probability", "probability_0", "probability_1"],
            ["short", "0", "0.875000", "0.875000", "0.125000"],
            [NASTY, "1", "0.750000", "0.250000", "0.750000"],
        ]
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 texts classified" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_file_is_read_as_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_bytes('caf\xe9;"x\n1;2\n'.encode("latin-1"))
    how = ["--delimiter", ";", "--no-header", "--no-quoting", "--encoding", "latin-1"]
    source = ["--input", str(tmp_path / "a.txt")]
    assert run(["predict", "m", *source, *how, "--text-column", "{column 1} {column 2}"]) == 0
    assert capsys.readouterr().out == '0\t0.8750\tcafé "x\n0\t0.8750\t1 2\n'


@pytest.mark.parametrize(("name", "options"), [("out.jsonl", []), ("out.txt", ["--json"])])
def test_json_lines_into_a_file(tmp_path: Path, name: str, options: list[str]) -> None:
    assert run(["predict", "m", NASTY, "-o", str(tmp_path / name), *options]) == 0
    lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == [NASTY]


def test_a_failure_leaves_an_older_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lastblock.cli.predict._write_table", fail)
    assert run(["predict", "m", "text", "-o", str(target)]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["text", "--input", "a.csv"], "texts and --input are both given"),
        (["text", "--text-column", "t"], "--text-column is for --input"),
        (["text", "--no-header"], "--header is for --input"),
        (["good", " "], "text 2 is empty"),
        (["bad \udce9"], "text 1 is not UTF-8"),
        (["text", "-o", "no/such/folder/out.csv"], "there is no folder no/such/folder"),
        (["text", "-o", "."], "--output . is a folder"),
        (["--input", "no-such-file.csv"], "no-such-file.csv"),
    ],
)
def test_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "m", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_nothing_piped_in_is_refused(piped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    piped("")
    assert run(["predict", "m"]) == 2
    assert "standard input is empty" in capsys.readouterr().err


def test_a_terminal_is_never_waited_for() -> None:
    ours, theirs = pty.openpty()
    code = "import sys; from lastblock.cli import run; sys.exit(run(['predict', 'm']))"
    result = subprocess.run(
        [sys.executable, "-c", code], stdin=theirs, capture_output=True, text=True, timeout=30
    )
    os.close(ours)
    os.close(theirs)
    assert result.returncode == 2
    assert "no texts" in result.stderr


def test_a_terminal_gets_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # no escape codes
    assert run(["predict", "m", "a [bold]longer[/bold] text"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].split() == ["label", "probability", "others", "text"]
    assert lines[-1].split() == ["1", "0.750", "0", "0.250", "a", "[bold]longer[/bold]", "text"]
