"""``lastblock learning-curve``."""

import csv
import json
from pathlib import Path

import pytest
from tiny import messages

from lastblock.cli import run


def test_prints_and_saves_the_curve(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*messages(60), strict=True)])
    arguments = [str(data), "--model", str(pretrained), "--epochs", "1", "--dtype", "float32"]
    folder = tmp_path / "out"
    few = ["--points", "2", "--draws", "2"]
    assert run(["learning-curve", *arguments, *few, "-o", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "TF-IDF" in said
    assert "more labels would" in said
    saved = json.loads((folder / "learning-curve.json").read_text(encoding="utf-8"))
    assert saved["answer"] in said.replace("\n", " ")
    page = (folder / "learning-curve.html").read_text(encoding="utf-8")
    assert saved["answer"] in page
    assert page.count("<svg") == 1
    for n in saved["sizes"]:
        assert f"<td>{n:,}</td>" in page
    assert run(["learning-curve", *arguments, "--points", "1"]) == 2
    assert "--points is 1" in capsys.readouterr().err
    assert run(["learning-curve", *arguments, "-o", str(data)]) == 2
    assert "data.csv is a file; name a folder" in capsys.readouterr().err
