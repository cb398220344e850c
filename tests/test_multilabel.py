"""Several labels a text: from Python and from files, trained, judged, saved and asked."""

import csv
import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import check_schema
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import MultiLabelBinarizer
from tiny import Said

from lastblock import TextClassifier, finetune
from lastblock.cli import run as lastblock
from lastblock.config import (
    DataConfig,
    ModelConfig,
    RepeatConfig,
    RunConfig,
    ThresholdRule,
    TrainConfig,
)
from lastblock.data.split import folds, stratified_split
from lastblock.decision import Decision, with_thresholds
from lastblock.errors import ConfigError, DataError
from lastblock.finetune import FinetuneResult, evaluate_file

WORDS = {"food": ["dinner", "soup", "bread"], "work": ["BOSS", "DESK", "MEET"], "zoo": ["0", "1"]}
SHARES = (0.5, 0.35, 0.15)


def notes(n: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Texts that a tiny decoder can tell apart, with none to three labels each."""
    rng = np.random.default_rng(seed)
    labels = [
        [name for name, share in zip(WORDS, SHARES, strict=True) if rng.random() < share]
        for _ in range(n)
    ]
    texts = []
    for i, of in enumerate(labels):
        words = list(chain.from_iterable(rng.choice(WORDS[name], 3) for name in of)) or ["hm"]
        texts.append(" ".join(rng.permutation(words)) + f" {chr(97 + i % 26)}")
    return texts, labels


def tiny(pretrained: Path, **kwargs: Any) -> TextClassifier:
    return TextClassifier(str(pretrained), dtype="float32", **{"epochs": 4, "depth": 2, **kwargs})


@pytest.fixture(scope="module")
def fitted(pretrained: Path) -> TextClassifier:
    return tiny(pretrained).fit(*notes(160), validation=notes(80, seed=1))


# ------------------------------------------------------------------------------ from Python


def test_predictions_are_lists_as_labels_were(fitted: TextClassifier) -> None:
    texts, labels = notes(100, seed=2)
    said = fitted.predict(texts)
    assert fitted.classes_.tolist() == ["food", "work", "zoo"]
    assert all(set(of) <= {*WORDS} and of == sorted(of) for of in said)
    binarizer = MultiLabelBinarizer(classes=list(WORDS))
    truth, given = binarizer.fit_transform(labels), binarizer.transform(said)
    assert f1_score(truth, given, average="micro") > 0.8
    right = sum(set(a) == set(b) for a, b in zip(labels, said, strict=True)) / 100
    assert fitted.score(texts, labels) == pytest.approx(right)
    weights = np.arange(100)
    each = (truth == given).all(axis=1)
    weighted = fitted.score(texts, labels, sample_weight=weights)
    assert weighted == pytest.approx(np.average(each, weights=weights))


def test_probabilities_are_each_label_s_own(fitted: TextClassifier) -> None:
    said = fitted.predict_proba(notes(50, seed=2)[0])
    assert said.shape == (50, 3)
    assert (said.sum(axis=1) > 1.3).any()
    thresholds = np.array(fitted.model_.decision.thresholds)
    given = [fitted.classes_[row].tolist() for row in said >= thresholds]
    assert fitted.predict(notes(50, seed=2)[0]) == given


def test_it_is_the_same_from_its_folder(fitted: TextClassifier, tmp_path: Path) -> None:
    texts, labels = notes(40, seed=3)
    fitted.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))
    assert loaded.predict(texts) == fitted.predict(texts)
    assert loaded.score(texts, labels) == fitted.score(texts, labels)


def test_a_matrix_comes_back_as_a_matrix(pretrained: Path, fitted: TextClassifier) -> None:
    (texts, labels), (others, their) = notes(160), notes(80, seed=1)
    binarizer = MultiLabelBinarizer(classes=list(WORDS))
    matrix, validation = binarizer.fit_transform(labels), binarizer.transform(their)
    classifier = tiny(pretrained).fit(texts, matrix, validation=(others, validation))
    said = classifier.predict(others)
    np.testing.assert_array_equal(said, binarizer.transform(fitted.predict(others)))
    assert classifier.score(others, validation) == fitted.score(others, their)


def test_scikit_learn_cross_validates_it(pretrained: Path) -> None:
    texts, labels = notes(60)
    matrix = MultiLabelBinarizer().fit_transform(labels)
    scores = cross_val_score(tiny(pretrained, epochs=1), texts, matrix, cv=2, scoring="f1_micro")
    assert ((scores >= 0) & (scores <= 1)).all()


def test_an_explanation_adds_up_to_the_log_odds(fitted: TextClassifier) -> None:
    text = "dinner BOSS soup DESK"
    (found,) = fitted.explain([text], "work")
    p = fitted.predict_proba([text])[0, 1]
    assert found.log_odds == pytest.approx(np.log(p / (1 - p)), abs=1e-4)
    assert found.missing == pytest.approx(0, abs=1e-9)
    (of_foremost,) = fitted.explain([text])
    assert of_foremost.label in fitted.predict([text])[0]


def test_weights_of_positives_raise_what_is_said_of_them(pretrained: Path) -> None:
    texts, labels = notes(120)[0], notes(120, seed=7)[1]  # texts tell nothing of these labels
    said = []
    for weight in (None, {"zoo": 8.0}, "balanced"):
        classifier = tiny(pretrained, epochs=1, class_weight=weight, calibrate=False)
        said.append(classifier.fit(texts, labels).predict_proba(texts)[:, 2].mean())
    assert said[0] == pytest.approx(SHARES[2], abs=0.1)
    assert min(said[1:]) > said[0] + 0.15


@pytest.mark.parametrize("long_text", ["truncate", "window"])
def test_weighted_texts_and_long_ones(pretrained: Path, long_text: str) -> None:
    texts, labels = notes(60)
    texts = [f"{text} {text} {text}" for text in texts]
    classifier = tiny(pretrained, epochs=1, max_length=24, long_text=long_text)
    classifier.fit(texts, labels, sample_weight=np.arange(60))
    assert classifier.predict_proba(texts).shape == (60, 3)
    assert len(classifier.model_.decision.thresholds or ()) == 3  # window by window or not


def test_few_texts_choose_thresholds_in_turn(pretrained: Path) -> None:
    texts, labels = notes(90)
    classifier = tiny(pretrained, epochs=1).fit(texts, labels)
    assert (classifier.mixture_ or {})["measured_on"].startswith("training part")
    chosen = classifier.model_.decision.thresholds
    assert chosen is not None
    assert chosen != (0.5,) * 3
    for held_out, which in ((40, "90 training texts"), (60, "60 validation texts")):
        said = Said()
        few = tiny(pretrained, epochs=1, threshold="recall=0.9")
        few.fit(texts, labels, validation=notes(held_out, seed=1), progress=said)
        assert which in said.lines[-1]


def test_windows_do_not_make_few_texts_many(pretrained: Path) -> None:
    texts, labels = notes(60)
    others, theirs = notes(40, seed=1)
    said = Said()
    classifier = tiny(pretrained, epochs=1, max_length=24, long_text="window")
    classifier.fit(
        [" ".join([text] * 9) for text in texts],
        labels,
        validation=([" ".join([text] * 9) for text in others], theirs),
        progress=said,
    )
    assert "60 training texts" in said.lines[-1]
    assert (classifier.mixture_ or {})["texts"] == 60


def test_a_fold_without_weight_makes_no_threshold_of_nothing(pretrained: Path) -> None:
    weights = np.zeros(90)
    weights[5] = 1.0
    classifier = tiny(pretrained, epochs=1).fit(*notes(90), sample_weight=weights)
    assert np.isfinite(classifier.model_.decision.thresholds or ()).all()


def test_too_few_texts_to_choose_thresholds_by(pretrained: Path) -> None:
    classifier = tiny(pretrained, epochs=1).fit(*notes(40))
    assert classifier.model_.decision.thresholds is None
    assert tiny(pretrained, epochs=1, threshold=0.3).fit(*notes(40)).model_.decision.thresholds == (
        0.3,
        0.3,
        0.3,
    )


@pytest.mark.parametrize(
    ("labels", "settings", "words"),
    [
        ([["a"], "b", ["c"]], {}, "label 1 is 'b', others are lists"),
        ([["a"], ["a"], []], {}, "there is one class only"),
        ([["a"], ["b"]], {}, "3 texts but 2 labels"),
        (
            [["a"], ["b"], []],
            {"threshold": "f1"},
            "--threshold f1 is chosen on texts that are not learnt from at the time, "
            "of which there are 3; give 50 or more, or a number",
        ),
        ([["a"], ["unsure"], []], {"abstain_below": 0.6}, "a class is called 'unsure'"),
        (np.eye(3), {"abstain_below": 0.6}, "no place in a matrix"),
        ([["a"], ["b"], []], {"class_weight": {"x": 2}}, "names 'x', which is no class"),
    ],
)
def test_what_cannot_be_is_said(
    pretrained: Path, labels: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        tiny(pretrained, **settings).fit(["x", "y", "z"], labels)


def test_one_text_is_too_few(pretrained: Path) -> None:
    with pytest.raises(DataError, match="there is one text only"):
        tiny(pretrained).fit(["x"], [["a", "b"]])


# ------------------------------------------------------------------------------ splits


def test_every_label_has_its_share_of_every_part() -> None:
    rng = np.random.default_rng(5)
    has = rng.random((2000, 8)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01]
    labels = [tuple(np.flatnonzero(row).tolist()) for row in has]
    texts = [f"{'abc'[i % 3]} {chr(0x4E00 + i // 2)}" for i in range(2000)]
    groups = [[i // 4 for i in range(2000)]]
    rows = stratified_split(texts, labels, seed=3, groups=groups)
    parts = (rows.train, rows.validation, rows.test)
    assert sorted(np.concatenate(parts)) == list(range(2000))
    of_group = [{i // 4 for i in part} for part in parts]
    assert sum(map(len, of_group)) == len(set.union(*of_group))
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert len(part) == pytest.approx(2000 * share, abs=25)
        wanted = has.sum(axis=0) * share
        np.testing.assert_allclose(has[part].sum(axis=0), wanted, atol=4 + 0.08 * wanted.max())
    for fit, held in folds(texts, labels, k=5, seed=1, groups=groups):
        assert not {i // 4 for i in fit} & {i // 4 for i in held}
        assert len(held) == pytest.approx(400, abs=20)


# ------------------------------------------------------------------------------ from files


def write_csv(path: Path, texts: list[str], labels: list[list[str]], separator: str = "|") -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        # A separator alone is no label: a text without any.
        joined = [separator.join(of) or separator for of in labels]
        csv.writer(file).writerows([("text", "label"), *zip(texts, joined, strict=True)])
    return str(path)


def config(
    pretrained: Path, data: str, output: Path | None, *, depth: int | None = 2, **kwargs: Any
) -> RunConfig:
    data_names = {"balance", "validation", "test", "label_separator"}
    repeat = {name: kwargs.pop(name) for name in ("folds", "seeds") if name in kwargs}
    return RunConfig(
        data=DataConfig(data=data, **{k: v for k, v in kwargs.items() if k in data_names}),
        model=ModelConfig(model=str(pretrained), dtype="float32", depth=depth),
        train=TrainConfig(epochs=2, **{k: v for k, v in kwargs.items() if k not in data_names}),
        repeat=RepeatConfig(**repeat),
        output=output and str(output),
    )


@pytest.fixture(scope="module")
def run(
    pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneResult, list[str], Path]:
    folder = tmp_path_factory.mktemp("run")
    data = write_csv(folder / "data.csv", *notes(540), separator=";")
    said = Said()
    settings = config(
        pretrained, data, folder / "m", depth=None, folds=2, seeds=2, abstain_below=0.4
    )
    return finetune(settings, said), said.lines, folder


def test_what_was_found_and_chosen_is_said(run: tuple[FinetuneResult, list[str], Path]) -> None:
    lines = run[1]
    assert any("';' joins several labels in" in line for line in lines)
    assert any("its likeliest label is right in" in line for line in lines)
    assert any(line.startswith("a label is given from a probability of") for line in lines)
    assert any("precision" in line and "validation texts" in line for line in lines)


def test_the_report_is_as_its_schema_says(
    run: tuple[FinetuneResult, list[str], Path], project_root: Path
) -> None:
    check_schema(run[2] / "m" / "report.json", project_root)
    for name in ("report.html", "README.md"):
        page = (run[2] / "m" / name).read_text("utf-8")
        assert "micro F1" in page
        assert "MCC" not in page


def test_scores_are_scikit_learn_s(run: tuple[FinetuneResult, list[str], Path]) -> None:
    result, _, folder = run
    texts, labels = notes(300, seed=9)
    labels[::9] = notes(300, seed=10)[1][::9]  # or all would be right
    data = write_csv(folder / "new.csv", texts, labels)
    scores = evaluate_file(folder / "m", data)
    binarizer = MultiLabelBinarizer(classes=list(WORDS))
    truth = binarizer.fit_transform(labels)
    said = result.classifier.predict_proba(texts)
    chosen = said >= result.classifier.model_.decision.thresholds
    for average in ("micro", "macro"):
        wanted = f1_score(truth, chosen, average=average)
        assert scores[f"{average}_f1"] == pytest.approx(wanted)
        low, high = scores[f"{average}_f1_ci95"]
        assert low < wanted < high
    wanted = average_precision_score(truth, said, average="macro")
    assert scores["average_precision"] == pytest.approx(wanted)
    assert scores["accuracy"] == pytest.approx((truth == chosen).all(axis=1).mean())
    assert scores["decision"].startswith("a label is given from")
    sure = said.max(axis=1) >= 0.4
    assert scores["answered"]["share"] == pytest.approx(sure.mean())
    assert scores["answered"]["accuracy"] == pytest.approx(
        (truth == chosen).all(axis=1)[sure].mean()
    )


def test_the_baseline_is_judged_by_the_same_rule(
    run: tuple[FinetuneResult, list[str], Path],
) -> None:
    report = run[0].report
    assert {*report["baseline"]} == {"validation", "test"}
    assert report["baseline"]["test"]["micro_f1"] > 0.6
    assert report["splits"]["test"]["micro_f1"] > 0.7


def test_few_texts_choose_the_baseline_s_thresholds_in_turn_too(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen_on: list[int] = []

    def remember(decision: Decision, rule: ThresholdRule, truth: Any, said: Any) -> Decision:
        chosen_on.append(len(truth))
        return with_thresholds(decision, rule, truth, said)

    monkeypatch.setattr(sys.modules["lastblock.finetune"], "with_thresholds", remember)
    data = write_csv(tmp_path / "data.csv", *notes(110), separator=";")
    report = finetune(config(pretrained, data, None)).report
    assert report["decision"]["thresholds"] is not None
    assert chosen_on == [report["splits"]["train"]["n"]]


def test_folds_and_seeds_repeat_it(run: tuple[FinetuneResult, list[str], Path]) -> None:
    report, folder = run[0].report, run[2]
    for repeated in ("folds", "seeds"):
        assert 0 < report[repeated]["metrics"]["micro_f1"]["mean"] <= 1
    with (folder / "m" / "out-of-fold.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 540
    assert {part for row in rows for part in row["predicted"].split(";")} <= {*WORDS, ""}
    assert rows[0].keys() >= {f"probability_{name}" for name in WORDS}


def test_the_test_part_decides_nothing(pretrained: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", *notes(120))
    validation = write_csv(tmp_path / "validation.csv", *notes(80, seed=5))
    texts, labels = notes(40, seed=6)
    poisoned = [[name for name in WORDS if name not in of] for of in labels]
    decisions = []
    for name, given in (("good", labels), ("poisoned", poisoned)):
        test = write_csv(tmp_path / f"{name}.csv", texts, given)
        settings = config(pretrained, data, None, validation=validation, test=test)
        decisions.append(finetune(settings).classifier.model_.decision)
    assert decisions[0] == decisions[1]
    assert decisions[0].thresholds is not None


@pytest.mark.parametrize("settings", [{"recipe": "chapter6"}, {"balance": "undersample"}])
def test_sets_of_labels_cannot_be_balanced(
    pretrained: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    data = write_csv(tmp_path / "data.csv", *notes(40))
    with pytest.raises(ConfigError, match="cannot be balanced where a text may have several"):
        finetune(config(pretrained, data, None, **settings))


def test_the_book_s_recipe_without_its_balancing(pretrained: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", *notes(60))
    report = finetune(config(pretrained, data, None, recipe="chapter6", balance="none")).report
    assert "micro_f1" in report["splits"]["test"]


def test_labels_are_one_as_they_stand_if_one_says_so(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = notes(200)
    data = write_csv(tmp_path / "data.csv", texts, labels)
    report = finetune(config(pretrained, data, None, label_separator="none")).report
    assert "food|work" in report["data"]["classes"]
    assert "confusion" in report["splits"]["test"]


# ------------------------------------------------------------------------------ on the command line


def test_predict_writes_labels_that_train_reads(
    run: tuple[FinetuneResult, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result, _, folder = run
    texts, _ = notes(30, seed=4)
    data = write_csv(folder / "unlabelled.csv", texts, [["food"]] * 30)
    given = result.classifier.predict(texts)
    for name in ("out.csv", "out.jsonl"):
        asked = ["predict", str(folder / "m"), "-i", data, "--text-column", "text"]
        assert lastblock([*asked, "-o", str(folder / name)]) == 0
    with (folder / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = [sorted(row["label"].split("|")) for row in rows]
    assert labels == [of or [""] for of in map(sorted, given)]
    assert [*rows[0]][3:] == [f"probability_{name}" for name in WORDS]
    written = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    lines = [json.loads(line) for line in written]
    assert [sorted(line["labels"]) or ["unsure"] * line.get("unsure", 0) for line in lines] == [
        sorted(of) for of in given
    ]
    assert "How it decides: a label is given from" in capsys.readouterr().err


def test_evaluate_and_explain_answer(
    run: tuple[FinetuneResult, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run[2]
    assert lastblock(["evaluate", str(folder / "m"), str(folder / "data.csv")]) == 0
    out = capsys.readouterr().out
    assert "micro F1" in out
    assert "How it decides: a label is given from" in out
    assert "It gives an answer for" in out
    assert lastblock(["explain", str(folder / "m"), "dinner BOSS", "--label", "work"]) == 0
    assert capsys.readouterr().out.startswith("work\t")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("compare M M DATA", "compare is for models that give one"),
        ("review DATA", "review is for one label a text"),
        ("learning-curve DATA", "learning curve is for one label a text"),
        ("suggest M DATA", "suggest is for models that give one"),
        ("train DATA -o OUT --recipe chapter6", "cannot be balanced"),
        ("train DATA -o OUT --threshold f2", "--threshold is 'f2'; it must be f1, precision=P"),
        ("train DATA -o OUT --class-weight zoo", "--class-weight is"),
        ("train DATA -o OUT --abstain-below 2", "--abstain-below is 2"),
    ],
)
def test_what_is_for_one_label_says_so_in_one_line(
    run: tuple[FinetuneResult, list[str], Path],
    arguments: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run[2]
    places = {"M": folder / "m", "DATA": folder / "data.csv", "OUT": folder / "out"}
    assert lastblock([str(places.get(word, word)) for word in arguments.split()]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in last


# ------------------------------------------------------------------------------ real emotions


@pytest.mark.slow
def test_it_finds_emotions_that_tf_idf_does_not(lastblock_data: Path, tmp_path: Path) -> None:
    with (lastblock_data / "goemotions" / "train.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))[:2860]]
    with (tmp_path / "data.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    report = finetune(RunConfig(data=DataConfig(data=str(tmp_path / "data.csv")))).report
    ours, baseline = report["splits"]["test"], report["baseline"]["test"]
    assert ours["micro_f1"] > baseline["micro_f1"]
    assert ours["micro_f1"] > 0.4
