"""``review``: a file to correct, and the corrected examples."""

import csv
from pathlib import Path

import pytest
from tiny import messages

from lastblock.cli import run


def test_from_first_look_to_corrected_file(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, labels = messages(60)
    labels[7] = "ham"
    data, found, corrected = (tmp_path / name for name in ("d.csv", "review.csv", "new.csv"))
    rows = zip(texts, labels, range(60), strict=True)
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "id"), *rows])
    how = ["--model", str(pretrained), "--folds", "2", "-n", "50"]
    assert run(["review", str(data), *how, "-o", str(found)]) == 0
    out, err = capsys.readouterr()
    assert "labels are probably wrong" in out
    assert "50 rows, worst first" in err
    with found.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["correct_label"] for line in lines] == [""] * 50
    (line,) = [line for line in lines if line["row"] == "8"]
    assert (line["label"], line["suggested_label"]) == ("ham", "spam")
    line["correct_label"] = "spam"
    with found.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    assert run(["review", "--apply", str(found), str(data), "-o", str(corrected)]) == 0
    assert "60 rows, 1 labels corrected" in capsys.readouterr().err
    with corrected.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["label"] for row in written] == messages(60)[1]
    assert [row["id"] for row in written] == [str(i) for i in range(60)]
    with corrected.with_name("new.changes.csv").open(newline="", encoding="utf-8") as file:
        (change,) = csv.DictReader(file)
    assert (change["row"], change["before"], change["after"]) == ("8", "ham", "spam")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--apply", "r.csv"], "--apply needs --output"),
        (["-o", "r.xlsx"], "ends in"),
        (["--folds", "1"], "--folds"),
        ([], "no-such.csv"),
    ],
)
def test_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["review", "no-such.csv", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
