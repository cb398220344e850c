"""``predict`` on a file of many parts: killed and resumed, the output is the same to the byte."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import messages

from lastblock import TextClassifier
from lastblock.cli import run
from lastblock.data import streaming

# Kills itself in the middle of writing the second part, as a power cut would.
KILLED = """
import os, signal, sys
from lastblock.cli import predict, run
from lastblock.data import streaming
streaming.PART_ROWS = 16
parts = 0
write = predict._write_{format}
def cut_off(predictions, file, *more):
    global parts
    parts += 1
    write(predictions, file, *more)
    if parts == 2:
        file.write("half a")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
predict._write_{format} = cut_off
run(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def model(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    TextClassifier(str(pretrained), epochs=1, dtype="float32").fit(*messages(20)).save(folder)
    return folder


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PART_ROWS", 16)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in messages(40)[0])])
    return path


@pytest.mark.parametrize(("name", "format"), [("out.csv", "table"), ("out.jsonl", "json")])
def test_killed_and_resumed_is_the_same_to_the_byte(
    model: Path, source: Path, tmp_path: Path, name: str, format: str
) -> None:
    whole, resumed = tmp_path / f"whole-{name}", tmp_path / name
    assert run(["predict", str(model), "--input", str(source), "--output", str(whole)]) == 0
    arguments = ["predict", str(model), "--input", str(source), "--output", str(resumed)]
    program = KILLED.format(format=format)
    killed = subprocess.run([sys.executable, "-c", program, *arguments], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not resumed.exists()
    record = json.loads((tmp_path / f"{name}.partial.json").read_text())
    assert record["rows"] == streaming.PART_ROWS
    assert run([*arguments, "--resume"]) == 0
    assert resumed.read_bytes() == whole.read_bytes()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"in.csv", name, whole.name}


def interrupted(model: Path, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = 0
    from lastblock.cli import predict

    classify = predict.classify

    def stop(*arguments: object) -> object:
        nonlocal parts
        parts += 1
        if parts == 2:
            raise KeyboardInterrupt
        return classify(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(predict, "classify", stop)
        assert run(["predict", str(model), "-i", str(source), "-o", str(output)]) == 130


def test_resumed_with_another_input_is_refused(
    model: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.csv"
    interrupted(model, source, output, monkeypatch)
    assert "--resume" in capsys.readouterr().err
    os.utime(source, (1, 1))
    arguments = ["predict", str(model), "-i", str(source), "-o", str(output)]
    assert run([*arguments, "--resume"]) == 2
    assert "another input" in capsys.readouterr().err
    assert run(arguments) == 0  # anew
    assert len(output.read_text().splitlines()) == 41
    assert not output.with_name("out.csv.partial").exists()


def test_nothing_to_resume_begins_at_the_beginning(
    model: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    assert run(["predict", str(model), "-i", str(source), "-o", str(output), "--resume"]) == 0
    assert len(output.read_text().splitlines()) == 41


def test_resume_needs_files(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", str(model), "a text", "--resume"]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_process_of_its_own_says_what_the_library_says(model: Path) -> None:
    # It imports torch without a part that predicting does not need.
    command = [sys.executable, "-m", "lastblock", "predict", str(model), "--json", "WIN CASH now"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    expected = TextClassifier.load(model).predict_proba(["WIN CASH now"])[0]
    assert sorted(json.loads(said.stdout)["probabilities"].values()) == sorted(expected)
    assert said.stderr == ""
