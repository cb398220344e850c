"""The search: what it tries, that it goes on, and that the test part has no say in it."""

import csv
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import messages

pytest.importorskip("optuna")

from lastblock import TextClassifier
from lastblock.cli import run
from lastblock.config import DataConfig, ModelConfig, RunConfig, SearchConfig, TrainConfig
from lastblock.crossvalidation import out_of_fold
from lastblock.data.examples import Examples
from lastblock.errors import ConfigError
from lastblock.finetune import groups_of
from lastblock.recipe import DATA_RULES
from lastblock.report import search_page
from lastblock.search import search

FIXED = {"epochs": 1, "batch_size": 16}


def config(pretrained: Path, folder: Path, **train: Any) -> RunConfig:
    data = folder / "data.csv"
    texts, labels = messages(80)
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return RunConfig(
        data=DataConfig(data=str(data)),
        model=ModelConfig(model=str(pretrained), dtype="float32", pooling="last"),
        train=TrainConfig(**FIXED | train),
        cache_size=1,
    )


@pytest.fixture(scope="module")
def found(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTBLOCK_CACHE", str(folder / "cache"))
        wanted = SearchConfig(trials=8, folds=2)
        return search(config(pretrained, folder), wanted, folder / "out"), folder


def test_what_is_given_is_not_searched_for(found: tuple[dict, Path]) -> None:
    assert set(found[0]["best"]["params"]) == {"learning_rate", "depth", "weight_decay"}
    depths = {trial["params"]["depth"] for trial in found[0]["trials"]}
    assert len(depths) > 1
    assert depths <= {1, 2, 3, 4}


def test_the_recipe_s_own_comes_first_and_the_best_is_no_worse(found: tuple[dict, Path]) -> None:
    first = found[0]["trials"][0]
    assert first["params"] == found[0]["recipe"]["params"]
    assert found[0]["best"]["value"] <= found[0]["recipe"]["value"]
    values = [t["value"] for t in found[0]["trials"] if t["state"] == "COMPLETE"]
    assert found[0]["best"]["value"] == min(values)
    assert len(found[0]["trials"]) == 8


def test_a_value_is_the_mean_loss_of_the_folds(found: tuple[dict, Path], pretrained: Path) -> None:
    with (found[1] / "data.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    split = json.loads((found[1] / "out" / "model" / "split.json").read_text())["rows"]
    drawn = [rows[i] for i in split["train"] + split["validation"]]
    classifier = TextClassifier(
        str(pretrained), dtype="float32", pooling="last", **FIXED, **found[0]["best"]["params"]
    )
    texts, labels = [row["text"] for row in drawn], [row["label"] for row in drawn]
    groups = groups_of(Examples(texts, labels, "data"), DataConfig(), DATA_RULES["auto"])
    scores = out_of_fold(classifier, texts, labels, folds=2, groups=groups).scores
    expected = sum(fold["loss"] for fold in scores) / 2
    assert found[0]["best"]["value"] == pytest.approx(expected, rel=1e-3)


def test_the_model_has_the_best_settings(found: tuple[dict, Path]) -> None:
    saved = TextClassifier.load(found[1] / "out" / "model").get_params()
    for name, value in found[0]["best"]["params"].items():
        assert saved[name] == value
    assert (found[1] / "out" / "model" / "report.html").exists()


def test_importance_is_shared_out(found: tuple[dict, Path]) -> None:
    importance = found[0]["importance"]
    assert set(importance) == {"learning_rate", "depth", "weight_decay"}
    assert sum(importance.values()) == pytest.approx(1)


def test_importance_and_trials_are_drawn(found: tuple[dict, Path]) -> None:
    page = search_page(found[0])
    assert page.count("<svg") == 2
    for name, share in found[0]["importance"].items():
        assert name.replace("_", " ") in page
        assert f">{100 * share:.0f} %<" in page


def test_it_goes_on_where_it_stopped_and_only_there(
    found: tuple[dict, Path], pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(found[1] / "cache"))
    wanted = SearchConfig(trials=9, folds=2)
    more = search(config(pretrained, found[1]), wanted, found[1] / "out")
    assert more["trials"][:8] == found[0]["trials"]
    assert len(more["trials"]) == 9
    assert more["trials"][8]["params"] not in [t["params"] for t in found[0]["trials"]]
    for other, wished in (
        (config(pretrained, found[1], weight_decay=0.2), wanted),
        (config(pretrained, found[1]), SearchConfig(trials=9, folds=3)),
    ):
        with pytest.raises(ConfigError, match="holds a search on other data or with other options"):
            search(other, wished, found[1] / "out")


def test_from_the_command_line(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = config(pretrained, tmp_path).data.data
    given = [data, "--model", str(pretrained), "--dtype", "float32", "--epochs", "1"]
    wanted = ["--trials", "5", "--timeout", "0", "--folds", "2", "-o", str(tmp_path / "out")]
    assert run(["search", *given, *wanted]) == 0
    said = capsys.readouterr()
    assert "learning rate" in said.out
    assert "the time is over" in said.err
    saved = json.loads((tmp_path / "out" / "search.json").read_text(encoding="utf-8"))
    assert len(saved["trials"]) == 1  # the recipe's own is always tried
    page = (tmp_path / "out" / "search.html").read_text(encoding="utf-8")
    assert "Nothing better than the recipe" in page
    assert "cannot be said of so few finished trials" in page
    assert run(["search", *given, "--trials", "0", "-o", str(tmp_path / "out")]) == 2
    assert "--trials is 0" in capsys.readouterr().err


def test_a_trial_ends_with_the_fold_in_which_time_is_over(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()  # a second each time it is looked at
    fake = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("lastblock.search.time", fake)
    wanted = SearchConfig(trials=5, folds=2, timeout=3.5)
    result = search(config(pretrained, tmp_path), wanted, tmp_path / "out")
    assert [trial["state"] for trial in result["trials"]] == ["COMPLETE", "PRUNED"]
