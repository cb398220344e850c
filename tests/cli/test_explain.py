"""``explain``: lines into a pipe, colour on a terminal, JSON, a page; and what is refused."""

import json
import os
import pty
import subprocess
import sys

import pytest
from tiny import messages

from lastblock.cli import run
from lastblock.estimator import TextClassifier

TEXT = "WIN <b>CASH</b> now"


@pytest.fixture(scope="module")
def folder(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained") / "model"
    TextClassifier(str(pretrained), epochs=1).fit(*messages(40)).save(folder)
    return str(folder)


def test_lines_add_up(folder, capsys):
    assert run(["explain", folder, TEXT, "--label", "spam"]) == 0
    label, odds, nothing, *words = capsys.readouterr().out.splitlines()
    assert label.startswith("spam\t0.")
    assert [line.split("\t")[1] for line in words] == TEXT.split()
    total = sum(float(line.split("\t")[0]) for line in [nothing, *words])
    assert total == pytest.approx(float(odds.split("\t")[0]), abs=0.01)


def test_tokens_instead_of_words(folder, capsys):
    assert run(["explain", folder, "WIN", "--tokens"]) == 0
    assert [line[-1] for line in capsys.readouterr().out.splitlines()[3:]] == ["W", "I", "N"]


def test_json_is_an_object_a_line(folder, capsys):
    assert run(["explain", folder, TEXT, "mum", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [first["text"], second["text"]] == [TEXT, "mum"]
    for piece in first["words"] + first["tokens"]:
        assert piece["text"] == TEXT[piece["start"] : piece["end"]]
    for pieces in (first["words"], first["tokens"]):
        total = first["log_odds_of_nothing"] + sum(p["contribution"] for p in pieces)
        assert total == pytest.approx(first["log_odds"])


def test_a_page(folder, tmp_path, capsys):
    target = tmp_path / "why.html"
    assert run(["explain", folder, TEXT, "--html", str(target)]) == 0
    page = target.read_text(encoding="utf-8")
    assert "<mark" in page
    assert "<b>CASH" not in page
    assert "http" not in page
    assert capsys.readouterr().out == ""


def test_colour_on_a_terminal(folder):
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "lastblock", "explain", folder, TEXT]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(main, 4096):
                shown += part
        except OSError:  # Linux says so when the other side has closed
            pass
        assert process.wait(60) == 0
    os.close(main)
    assert b"\x1b[" in shown
    assert b"when nothing is read" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such/model", "text"], "no such model folder"),
        (["{folder}", "text", "--label", "eggs"], "'eggs' is no class of this model"),
        (["{folder}", "text", "--html", "no/such/why.html"], "--html no/such/why.html: there is"),
        (["{folder}", "bad \udce9"], "text 0"),
        (["{folder}"], "TEXT"),
    ],
)
def test_refusals_are_one_line(folder, capsys, arguments, words):
    assert run(["explain", *(a.replace("{folder}", folder) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
