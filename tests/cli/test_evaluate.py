"""``evaluate``: arguments handed on; a table or JSON."""

import json
import sys
import types
from typing import Any

import pytest

from lastblock.cli import run
from lastblock.config import ReadOptions

SCORES: dict[str, Any] = {
    "n": 3,
    "accuracy": 0.6667,
    "accuracy_ci95": [0.2077, 0.9385],
    "macro_f1": 0.65,
    "mcc": 0.5,
    "loss": 0.7,
    "confusion": [[1, 0], [1, 1]],
    "per_class": {
        "ham": {"precision": 0.5, "recall": 1.0, "f1": 0.6667, "support": 1},
        "spam": {"precision": 1.0, "recall": 0.5, "f1": 0.6667, "support": 2},
    },
    "classes": ["ham", "spam"],
    "decision": None,
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    module: Any = types.ModuleType("lastblock.finetune")

    def evaluate_file(*args: Any, progress: Any, **options: Any) -> dict[str, Any]:
        seen.append([*map(str, args), options])
        return SCORES

    module.evaluate_file = evaluate_file
    monkeypatch.setitem(sys.modules, "lastblock.finetune", module)
    return seen


def test_arguments_are_handed_on(calls: list[Any]) -> None:
    assert run(["evaluate", "m", "a.csv", "--text-column", "t", "--label-column", "l"]) == 0
    columns = {"text_column": "t", "label_column": "l"}
    assert calls == [["m", "a.csv", {**columns, "options": ReadOptions()}]]
    how = ["--encoding", "cp1252", "--delimiter", ";", "--no-header", "--quoting"]
    assert run(["evaluate", "m", "a.csv", *how, "--label-separator", "+"]) == 0
    assert calls[1][2]["options"] == ReadOptions(
        encoding="cp1252", delimiter=";", header=False, quoting=True, label_separator="+"
    )


def test_json_is_the_scores(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "m", "a.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == SCORES


def test_the_table_has_scores_and_classes(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "m", "a.csv"]) == 0
    out = capsys.readouterr().out
    for words in ("66.7", "ham", "spam", "precision", "recall"):
        assert words in out
