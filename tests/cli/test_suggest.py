"""``suggest``: a table on the terminal, or a file to label that train takes."""

import csv
from pathlib import Path

import pytest
from tiny import messages

from lastblock import TextClassifier
from lastblock.cli import run


def test_a_table_and_a_file(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, labels = messages(40)
    model = str(tmp_path / "m")
    TextClassifier(str(pretrained), dtype="float32", epochs=1).fit(texts, labels).save(model)
    pool, known = tmp_path / "pool.txt", tmp_path / "known.csv"
    pool.write_text("\n".join([*texts[:3], "home CASH", "dinner FREE"]) + "\n")
    with known.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    assert run(["suggest", model, str(pool), "-n", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["row", "predicted", "probability", "text"]
    assert len([line for line in printed if line.strip()]) == 4
    target = tmp_path / "next.csv"
    assert run(["suggest", model, str(pool), "--labelled", str(known), "-o", str(target)]) == 0
    assert "2 of 5 texts" in capsys.readouterr().err
    with target.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert sorted(row["text"] for row in written) == ["dinner FREE", "home CASH"]
    assert {row["label"] for row in written} == {""}
    assert list(written[0]) == ["row", "text", "predicted", "probability", "label"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.txt", "-o", "x.xlsx"], "ends in"),
        (["no.txt"], "no such file"),
        (["x", "-n", "0"], "-n"),
    ],
)
def test_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["suggest", "m", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
