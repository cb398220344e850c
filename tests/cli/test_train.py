"""``train`` and ``demo``: every option reaches the configuration; what is printed at the end."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lastblock.cli import run
from lastblock.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from lastblock.decision import Decision
from lastblock.inference import TextModel

SCORES = {
    "n": 300,
    "accuracy": 0.98,
    "accuracy_ci95": [0.957, 0.991],
    "macro_f1": 0.97,
    "mcc": 0.95,
    "loss": 0.06,
    "confusion": [[258, 2], [4, 36]],
    "per_class": {
        name: {"precision": 0.97, "recall": 0.96, "f1": 0.965, "support": 150}
        for name in ("ham", "spam")
    },
}
REPORT: dict[str, Any] = {
    "data": {"rows": 1494, "classes": {"ham": 747, "spam": 747}, "duplicates": 3},
    "settings": {"recipe": "auto", "depth": 20},
    "splits": {"train": SCORES, "validation": SCORES, "test": SCORES},
    "before_training": {"test": SCORES},
    "baseline": {"validation": SCORES, "test": SCORES},
    "seconds": {"weights": 0.2, "train": 3.1, "total": 12.25},
    "tokens": 1000,
}


class Model(TextModel):
    def __init__(self) -> None:
        self.classes, self.decision = ["ham", "spam"], Decision()

    def predict_proba(self, texts: list[str], progress: Any = None) -> np.ndarray:
        spam = np.array([0.9 if "winner" in text else 0.2 for text in texts])
        return np.stack([1 - spam, spam], axis=1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Replaces the training; returns the configurations it was called with."""
    configs: list[RunConfig] = []
    finetune: Any = types.ModuleType("lastblock.finetune")
    checkpoint: Any = types.ModuleType("lastblock.checkpoint")

    def train(config: RunConfig, progress: Any, draw: Any) -> Any:
        configs.append(config)
        progress.say("1,494 rows")
        return types.SimpleNamespace(report=REPORT, folder=Path(str(config.output)))

    finetune.finetune = train
    checkpoint.load = lambda folder: Model()
    monkeypatch.setitem(sys.modules, "lastblock.finetune", finetune)
    monkeypatch.setitem(sys.modules, "lastblock.checkpoint", checkpoint)
    return configs


def test_what_is_not_given_is_left_to_the_recipe(seen: list[RunConfig]) -> None:
    assert run(["train", "a.csv", "-o", "m"]) == 0
    assert seen == [RunConfig(data=DataConfig(data="a.csv"), output="m")]


def test_every_option_reaches_the_configuration(seen: list[RunConfig]) -> None:
    options = (
        "--recipe chapter6 --model gpt2 --text-column t --label-column l --validation v.csv "
        "--test t.csv --seed 7 --epochs 2 --learning-rate 0.01 --batch-size 4 --weight-decay 0.2 "
        "--depth 9 --train blocks --trainable-blocks 2 --long-text window "
        "--pooling mean --max-length 33 --balance undersample --dtype bfloat16 "
        "--weights random --attention full "
        "--class-weight spam=3,ham=0.5 --threshold precision=0.9 --abstain-below 0.7"
    )
    assert run(["train", "a.csv", "--output", "m", *options.split()]) == 0
    assert seen == [
        RunConfig(
            data=DataConfig("a.csv", "t", "l", "v.csv", "t.csv", "undersample"),
            model=ModelConfig(
                "gpt2",
                depth=9,
                train="blocks",
                trainable_blocks=2,
                pooling="mean",
                max_length=33,
                long_text="window",
                weights="random",
                attention="full",
                dtype="bfloat16",
            ),
            train=TrainConfig(
                *("chapter6", 7, 2, 0.01, 4, 0.2),
                class_weight={"spam": 3, "ham": 0.5},
                threshold="precision=0.9",
                abstain_below=0.7,
            ),
            output="m",
        )
    ]


def test_results_go_to_stdout_and_progress_to_stderr(
    seen: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "a.csv", "-o", "m"]) == 0
    out, err = capsys.readouterr()
    assert err == "1,494 rows\n"
    for words in ("test", "98.0", "depth 20", "train 3.1", "lastblock predict m", "took      0."):
        assert words in out


def test_demo_trains_on_public_data_and_judges_two_messages(
    seen: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "-o", "elsewhere"]) == 0
    data = DataConfig(data="sms-spam", balance="undersample")
    assert seen == [RunConfig(data=data, output="elsewhere")]
    out = capsys.readouterr().out
    assert "spam\t0.9000\tYou are a winner" in out
    assert "ham\t0.8000\tHey, just wanted to check" in out


def test_demo_has_a_folder_of_its_own(seen: list[RunConfig]) -> None:
    assert run(["demo"]) == 0
    assert seen[0].output == "demo-model"
