"""The take from file to folder: what is read, split, measured, reported and saved."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import check_schema
from sklearn.metrics import accuracy_score, log_loss, matthews_corrcoef
from tiny import Said, messages

from lastblock import TextClassifier, checkpoint, finetune
from lastblock.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from lastblock.data.examples import Examples
from lastblock.data.split import split_record
from lastblock.errors import DataError, SavedModelError
from lastblock.finetune import FinetuneResult, _spread, evaluate_file, read, split
from lastblock.recipe import DATA_RULES
from lastblock.runtime import Silent


def write_csv(path: Path, texts: list[str], labels: list[str]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return str(path)


def config(pretrained: Path, data: str, output: Path | None, **kwargs: Any) -> RunConfig:
    data_names = {"balance", "validation", "test", "split"}
    return RunConfig(
        data=DataConfig(data=data, **{k: v for k, v in kwargs.items() if k in data_names}),
        model=ModelConfig(model=str(pretrained), dtype="float32"),
        train=TrainConfig(epochs=2, **{k: v for k, v in kwargs.items() if k not in data_names}),
        output=output and str(output),
    )


@pytest.fixture(scope="module", params=["auto", "chapter6"])
def run(
    request: pytest.FixtureRequest, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneResult, list[str], Path]:
    folder = tmp_path_factory.mktemp("run")
    texts, labels = messages(100)
    # 20 more of one class, word for word as before
    data = write_csv(folder / "data.csv", texts + texts[::5], labels + labels[::5])
    said = Said()
    result = finetune(config(pretrained, data, folder / "m", recipe=request.param), said)
    return result, said.lines, folder


def test_the_report_is_as_its_schema_says(
    run: tuple[FinetuneResult, list[str], Path], project_root: Path
) -> None:
    check_schema(run[2] / "m" / "report.json", project_root)


def test_the_report_has_what_it_promises(run: tuple[FinetuneResult, list[str], Path]) -> None:
    result, _, folder = run
    report = json.loads((folder / "m" / "report.json").read_text())
    assert {
        "data",
        "settings",
        "splits",
        "before_training",
        "baseline",
        "seconds",
        "tokens",
    } <= set(report)
    assert report["data"]["rows"] == 120
    assert report["data"]["classes"] == {"ham": 60, "spam": 60}
    assert report["data"]["duplicates"] == 20
    (repeats,) = [f for f in report["data"]["findings"] if f["kind"] == "duplicates"]
    assert repeats["count"] == 20
    assert repeats["rows"] == list(range(101, 121))
    for splits in (report["splits"], report["before_training"]):
        assert list(splits) == ["train", "validation", "test"]
    wanted = {"n", "accuracy", "accuracy_ci95", "macro_f1", "mcc", "loss", "confusion"}
    for scores in [*report["splits"].values(), report["baseline"]["test"]]:
        assert wanted <= set(scores)
        low, high = scores["accuracy_ci95"]
        assert 0 <= low <= scores["accuracy"] <= high <= 1
    times = {"weights", "tokenize", "activations", "train", "evaluate", "total"}
    assert set(report["seconds"]) == times
    assert report["seconds"]["total"] >= report["seconds"]["train"] > 0
    assert report["tokens"] > 0
    assert result.report["splits"]["test"]["n"] == report["splits"]["test"]["n"]


def test_the_sizes_are_the_recipe_s(run: tuple[FinetuneResult, list[str], Path]) -> None:
    result, _, _ = run
    n = [part["n"] for part in result.report["splits"].values()]
    assert sum(n) == 120
    if result.report["settings"]["recipe"] == "chapter6":
        assert n == [84, 12, 24]
    else:
        assert result.report["data"]["test_texts_in_train"] == 0
        assert n == pytest.approx([84, 12, 24], abs=3)


def test_what_was_found_is_said(run: tuple[FinetuneResult, list[str], Path]) -> None:
    _, said, _ = run
    assert any("120 rows (60 ham, 60 spam); 20 repeat" in line for line in said)
    assert any(line.startswith("split into train / validation / test: ") for line in said)


def test_of_many_classes_the_largest_are_named(tmp_path: Path) -> None:
    labels = [f"class{i:02}" for i in range(22) for _ in range(30 - i)]
    texts = [f"text {i}" for i in range(len(labels))]
    said = Said()
    read(DataConfig(data=write_csv(tmp_path / "d.csv", texts, labels)), said)
    counted = next(line for line in said.lines if "repeat an earlier" in line)
    assert "(30 class00, 29 class01, " in counted
    assert "11 class19 and 2 smaller classes); 0 repeat" in counted


def test_the_folder_predicts_what_the_report_says(
    run: tuple[FinetuneResult, list[str], Path],
) -> None:
    result, _, folder = run
    scores = evaluate_file(folder / "m", str(folder / "data.csv"))
    assert scores["n"] == 120
    assert scores["classes"] == ["ham", "spam"]
    texts, labels = messages(100)
    loaded = TextClassifier.load(folder / "m")
    probabilities = loaded.predict_proba(texts + texts[::5])
    truth = labels + labels[::5]
    said = loaded.classes_[probabilities.argmax(axis=1)]
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(truth, said))
    assert scores["loss"] == pytest.approx(log_loss(truth, probabilities))
    parts = result.report["splits"].values()
    right = sum(part["accuracy"] * part["n"] for part in parts)
    assert right == pytest.approx(scores["accuracy"] * 120)


@pytest.mark.parametrize(("n", "most"), [(0, 3), (1, 3), (3, 3), (10, 3), (1_000, 300)])
def test_some_rows_are_spread_over_all(n: int, most: int) -> None:
    rows = _spread(n, most)
    assert len(rows) == min(n, most)
    assert len(set(rows.tolist())) == len(rows)
    if len(rows) > 1:
        assert rows[0] == 0
        assert rows[-1] == n - 1
        assert np.diff(rows).max() - np.diff(rows).min() <= 1


def test_before_training_is_before(run: tuple[FinetuneResult, list[str], Path]) -> None:
    result, _, _ = run
    before, after = result.report["before_training"], result.report["splits"]
    assert before["train"]["loss"] > after["train"]["loss"]


def test_the_book_s_split_of_the_real_messages(lastblock_data: Path) -> None:
    from lastblock.finetune import read, split
    from lastblock.recipe import DATA_RULES

    run = RunConfig(data=DataConfig(data="sms-spam"), train=TrainConfig(recipe="chapter6"))
    examples, found = read(run.data, Silent())
    assert (found["rows"], found["duplicates"]) == (5574, 403)
    assert found["classes"] == {"ham": 4827, "spam": 747}
    parts = split(examples, run, DATA_RULES["chapter6"], Silent())
    assert [len(part) for part in parts.values()] == [1045, 149, 300]
    labels = [label for part in parts.values() for label in part.labels]
    assert labels.count("spam") == labels.count("ham") == 747


def test_fixed_files_are_used_as_they_are(pretrained: Path, tmp_path: Path) -> None:
    names = ("train", "validation", "test")
    paths = {
        name: write_csv(tmp_path / f"{name}.csv", *messages(20 + 10 * i, seed=i))
        for i, name in enumerate(names)
    }
    both = config(
        pretrained, paths["train"], None, validation=paths["validation"], test=paths["test"]
    )
    n = [part["n"] for part in finetune(both).report["splits"].values()]
    assert n == [20, 30, 40]
    one = config(pretrained, paths["train"], None, test=paths["test"])
    parts = finetune(one).report["splits"]
    assert parts["test"]["n"] == 40
    assert parts["train"]["n"] + parts["validation"]["n"] == 20


def test_a_poisoned_test_file_changes_nothing_in_the_model(
    pretrained: Path, tmp_path: Path
) -> None:
    texts, labels = messages(60)
    data = write_csv(tmp_path / "data.csv", texts, labels)
    test_texts, test_labels = messages(20, seed=3)
    swapped = ["ham" if label == "spam" else "spam" for label in test_labels]
    said = []
    for name, given in (("good", test_labels), ("poisoned", swapped)):
        test = write_csv(tmp_path / f"{name}.csv", test_texts, given)
        result = finetune(config(pretrained, data, None, test=test))
        said.append(result.classifier.predict_proba(texts))
    np.testing.assert_array_equal(said[0], said[1])


def test_deleting_the_test_part_changes_nothing_in_the_model(
    pretrained: Path, tmp_path: Path
) -> None:
    texts, labels = messages(200)
    data = write_csv(tmp_path / "data.csv", texts, labels)
    finetune(config(pretrained, data, tmp_path / "m"))
    rows = json.loads((tmp_path / "m" / "split.json").read_text("utf-8"))["rows"]

    kept = sorted(rows["train"] + rows["validation"])
    of_kept = [texts[row] for row in kept], [labels[row] for row in kept]
    less = write_csv(tmp_path / "less.csv", *of_kept)
    examples = Examples(*of_kept, less)
    parts = {
        name: examples.take([kept.index(row) for row in rows[name] if row in kept])
        for name in ("train", "validation", "test")
    }
    record = tmp_path / "split.json"
    record.write_text(json.dumps(split_record(parts, less)), encoding="utf-8")
    result = finetune(config(pretrained, less, tmp_path / "without", split=str(record)))
    assert list(result.report["splits"]) == ["train", "validation"]
    for name in ("model.safetensors", "config.json"):
        with_it, without = ((tmp_path / m / name).read_bytes() for m in ("m", "without"))
        assert with_it == without


def test_undersampling_is_said_and_done_before_the_split(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = messages(60)
    data = write_csv(tmp_path / "data.csv", [*texts, "see you"], [*labels, "ham"])
    said = Said()
    report = finetune(config(pretrained, data, None, balance="undersample"), said).report
    assert sum(part["n"] for part in report["splits"].values()) == 60
    assert report["settings"]["balance"] == "undersample"
    assert any(line.startswith("balanced before the split: 60 rows") for line in said.lines)


def test_nothing_is_done_where_nothing_can_be_saved(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(SavedModelError, match="will not be overwritten"):
        finetune(config(pretrained, "no-such-file.csv", tmp_path / "thesis"))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_label_unknown_in_training_is_refused_before_anything_is_learnt(
    pretrained: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = messages(20)
    data = write_csv(tmp_path / "data.csv", texts, labels)
    other = write_csv(tmp_path / "other.csv", ["x", "y", "z"], ["ham", "spam", "eggs"])
    monkeypatch.setattr(TextClassifier, "fit", None)
    words = r"other\.csv: labels that no training text has: 'eggs' \(rows: 1\); leave these"
    with pytest.raises(DataError, match=words):
        finetune(config(pretrained, data, tmp_path / "m", **{name: other}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "other.csv"]


def test_a_class_newer_than_all_that_is_learnt_from_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    rows = [f"text {i},{'ab'[i % 2]},2024-01-{i % 28 + 1:02}" for i in range(93)]
    rows += [f"late {i},new,2025-01-01" for i in range(7)]
    path.write_text("\n".join(["text,label,day", *rows]), encoding="utf-8")
    run = RunConfig(data=DataConfig(data=str(path), time_column="day"))
    examples, _ = read(run.data, Silent())
    with pytest.raises(DataError, match=r"the test part: labels .*: 'new' \(rows: 7\)"):
        split(examples, run, DATA_RULES["auto"], Silent())


def test_load_is_the_checkpoint_s(run: tuple[FinetuneResult, list[str], Path]) -> None:
    _, _, folder = run
    assert checkpoint.load(folder / "m").class_names == ["ham", "spam"]
