"""train --folds and --seeds: what they say, and that the model is the same without them."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from tiny import messages

from lastblock import TextClassifier, finetune
from lastblock.config import DataConfig, ModelConfig, RepeatConfig, RunConfig, TrainConfig
from lastblock.errors import ConfigError
from lastblock.finetune import FinetuneResult


def config(pretrained: Path, folder: Path, **repeat: Any) -> RunConfig:
    data = folder / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*messages(60), strict=True)])
    return RunConfig(
        data=DataConfig(data=str(data)),
        model=ModelConfig(model=str(pretrained), dtype="float32"),
        train=TrainConfig(epochs=2),
        repeat=RepeatConfig(**repeat),
        output=str(folder / "m"),
    )


@pytest.fixture(scope="module")
def run(
    pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneResult, RunConfig]:
    wanted = config(pretrained, tmp_path_factory.mktemp("run"), folds=3, seeds=2)
    return finetune(wanted), wanted


def test_the_report_s_folds_are_scikit_learn_s_of_the_saved_predictions(
    run: tuple[FinetuneResult, RunConfig],
) -> None:
    assert run[0].folder is not None
    folds = json.loads((run[0].folder / "report.json").read_text())["folds"]
    assert (folds["n"], folds["rows"]) == (3, 60)
    with (run[0].folder / folds["predictions"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(60))
    assert [row["label"] for row in rows] == messages(60)[1]
    for i in range(3):
        fold = [row for row in rows if row["fold"] == str(i)]
        truth, said = ([row[name] for row in fold] for name in ("label", "predicted"))
        accuracy = folds["metrics"]["accuracy"]["values"][i]
        assert accuracy == pytest.approx(accuracy_score(truth, said))
        macro_f1 = folds["metrics"]["macro_f1"]["values"][i]
        assert macro_f1 == pytest.approx(f1_score(truth, said, average="macro", zero_division=0))
        for row in fold:
            spam = float(row["probability_spam"])
            assert spam + float(row["probability_ham"]) == pytest.approx(1, abs=1e-5)
            assert (row["predicted"] == "spam") == (spam > 0.5)
    values = folds["metrics"]["accuracy"]["values"]
    assert folds["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(values))


def test_the_first_seed_is_the_model_that_is_kept(run: tuple[FinetuneResult, RunConfig]) -> None:
    report = run[0].report
    seeds = report["seeds"]
    assert (seeds["n"], seeds["seeds"], seeds["part"]) == (2, [123, 124], "test")
    assert seeds["metrics"]["loss"]["values"][0] == report["splits"]["test"]["loss"]


def test_other_seeds_train_other_models(pretrained: Path, tmp_path: Path) -> None:
    # In the book's recipe no probe, which is the same for all seeds, can outweigh what is trained.
    wanted = config(pretrained, tmp_path, seeds=2)
    report = finetune(
        dataclasses.replace(wanted, train=TrainConfig(recipe="chapter6", epochs=1))
    ).report
    first, second = report["seeds"]["metrics"]["loss"]["values"]
    assert first == report["splits"]["test"]["loss"] != second


def test_the_model_is_the_same_without(
    run: tuple[FinetuneResult, RunConfig], tmp_path: Path
) -> None:
    alone = dataclasses.replace(run[1], repeat=RepeatConfig(), output=str(tmp_path / "alone"))
    result = finetune(alone)
    assert not {"folds", "seeds"} & set(result.report)
    assert not (tmp_path / "alone" / "out-of-fold.csv").exists()
    texts, _ = messages(20, seed=3)
    assert run[0].folder is not None
    np.testing.assert_array_equal(
        result.classifier.predict_proba(texts),
        TextClassifier.load(run[0].folder).predict_proba(texts),
    )


def test_repeats_that_cannot_be_are_refused(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--folds is 1"):
        RepeatConfig(folds=1)
    with pytest.raises(ConfigError, match="--seeds is 0"):
        RepeatConfig(seeds=0)
    with pytest.raises(ConfigError, match="--folds and --time-column exclude each other"):
        RunConfig(data=DataConfig(data="x", time_column="t"), repeat=RepeatConfig(folds=3))
    with pytest.raises(ConfigError, match=r"61 folds of \d+ different texts"):
        finetune(config(pretrained, tmp_path, folds=61))
