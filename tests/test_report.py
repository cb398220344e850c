"""Reports say what was measured, hold nothing foreign, and survive awkward names and gaps."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from huggingface_hub import ModelCard

from lastblock.evaluation import History, evaluate
from lastblock.report import summary_table, write_report

SETTINGS = {
    "recipe": "auto",
    "model": "smollm2-135m-instruct",
    "depth": 20,
    "trainable_blocks": 1,
    "max_length": 512,
    "learning_rate": 1e-3,
    "keep_best": True,
    "eval_steps": 60,
    "eval_texts": 128,
}
SIZES = {"train": 140, "validation": 20, "test": 40}


def _scores(names, n, seed, sharpness=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(names), size=n)
    logits = rng.normal(size=(n, len(names)))
    logits[np.arange(n), labels] += sharpness
    odds = np.exp(logits)
    return evaluate(labels, odds / odds.sum(axis=1, keepdims=True), names).to_dict()


def _report(names=("ham", "spam"), sizes=SIZES, **more):
    names = list(names)
    splits = {part: _scores(names, n, n) for part, n in sizes.items()}
    return {
        "seconds": {"weights": 0.3, "train": 2.0, "total": 2.4},
        "data": {
            "source": "/home/someone/secret/messages.csv",
            "rows": 200,
            "classes": {name: 10 for name in names},
            "duplicates": 7,
            "conflicting": 2,
            "test_texts_in_train": 3,
            "notes": ["Two rows were skipped."],
        },
        "settings": SETTINGS,
        "splits": splits,
        "before_training": {p: _scores(names, n, 1, 0.0) for p, n in sizes.items()},
        "baseline": {p: _scores(names, n, 2) for p, n in sizes.items() if p != "train"},
        "tokens": 12_345,
        **more,
    }


def _history(validation=True):
    history = History()
    for i in range(6):
        loss = {"step": i, "examples_seen": 16 * (i + 1), "train_loss": 1 / (i + 1)}
        history.losses.append({**loss, "validation_loss": 1.1 / (i + 1) if validation else None})
    for i in range(2):
        accuracy = {"epoch": i + 1, "step": 3 * (i + 1), "examples_seen": 48 * (i + 1)}
        known = 0.8 + i / 10 if validation else None
        history.accuracies.append({**accuracy, "train_accuracy": 0.9, "validation_accuracy": known})
    return history


class _Page(HTMLParser):
    """Tags opened, and text outside styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def _write(folder, report=None, history=None):
    write_report(folder, report or _report(), history or _history())
    card = (folder / "README.md").read_text(encoding="utf-8")
    page = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads((folder / "report.json").read_text(encoding="utf-8")), card, page


def test_every_file_is_written_and_nothing_else(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    written, _, page = _write(tmp_path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    pictures = ["figures/accuracy.png", "figures/confusion.png", "figures/loss.png"]
    assert names == ["README.md", *pictures, "model.safetensors", "report.html", "report.json"]
    assert written["size_bytes"] == {"model.safetensors": 1000, "total": 1000}
    assert page.startswith("<!doctype html>")


def test_report_json_keeps_its_keys_and_their_order(tmp_path):
    report = _report(mistakes=[])
    written, _, _ = _write(tmp_path, report)
    assert list(written) == [
        *("data", "settings", "splits", "before_training", "baseline", "majority"),
        *("seconds", "tokens", "size_bytes", "history", "mistakes"),
    ]
    assert {key: written[key] for key in report} == report
    assert written["history"] == _history().to_dict()


def test_what_json_cannot_hold_becomes_what_it_can(tmp_path):
    report = _report()
    report["splits"]["test"]["loss"] = float("nan")
    report["settings"] = {**SETTINGS, "warmup": np.float32(0.5), "folder": tmp_path}
    report["more"] = {"a": np.arange(2), "b": (np.int64(1), np.bool_(True)), 3: float("inf")}
    written, card, _ = _write(tmp_path, report)
    assert written["splits"]["test"]["loss"] is None
    assert written["settings"]["warmup"] == 0.5
    assert written["more"] == {"a": [0, 1], "b": [1, True], "3": None}
    assert re.search(r"^\| test \|.*\| – \|", card, re.MULTILINE)


def test_same_facts_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        _write(tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_summary_has_a_row_a_part_and_its_rivals():
    report = _report()
    rows = summary_table(report)
    names = ["train", "validation", "test", "test: TF-IDF", "test: majority", "test: untrained"]
    assert [row["part"] for row in rows] == names
    test = report["splits"]["test"]
    low, high = test["accuracy_ci95"]
    assert rows[2] == {
        "part": "test",
        "texts": "40",
        "accuracy": f"{100 * test['accuracy']:.1f} %",
        "95 % interval": f"{100 * low:.1f}–{100 * high:.1f} %",
        "macro F1": f"{test['macro_f1']:.3f}",
        "MCC": f"{test['mcc']:.3f}",
        "loss": f"{test['loss']:.3f}",
    }


def test_summary_of_a_single_file_is_a_single_row():
    rows = summary_table({"splits": {"given": _scores(["a", "b"], 10, 0)}})
    assert [row["part"] for row in rows] == ["given"]


def test_majority_agrees_with_scikit_learn(tmp_path):
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import f1_score, log_loss

    names = ["a", "b", "c"]
    report = _report(names)
    written, _, _ = _write(tmp_path, report)

    def labels(part):
        return np.repeat(np.arange(3), np.sum(report["splits"][part]["confusion"], axis=1))

    train, test = labels("train"), labels("test")
    dummy = DummyClassifier(strategy="prior").fit(train[:, None], train)
    ours = written["majority"]["test"]
    assert ours["accuracy"] == pytest.approx(dummy.score(test[:, None], test))
    assert ours["loss"] == pytest.approx(log_loss(test, dummy.predict_proba(test[:, None])))
    reference = f1_score(test, dummy.predict(test[:, None]), average="macro", zero_division=0)
    assert ours["macro_f1"] == pytest.approx(reference)
    assert ours["mcc"] == 0


def test_the_card_is_one_the_hub_reads(tmp_path):
    written, card, _ = _write(tmp_path)
    data = ModelCard(card).data
    assert data.library_name == "lastblock"
    assert data.pipeline_tag == "text-classification"
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data.license == "apache-2.0"
    assert data.model_name == "smollm2-135m-instruct on messages.csv"
    test = written["splits"]["test"]
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {
        "accuracy": round(test["accuracy"], 4),
        "f1": round(test["macro_f1"], 4),
        "matthews_correlation": round(test["mcc"], 4),
    }
    for name in re.findall(r"\]\((figures/.*?)\)", card):
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("model", "base_model"), [("openai-community/gpt2", "openai-community/gpt2"), ("/a/b", None)]
)
def test_base_model_is_named_if_the_hub_has_it(tmp_path, model, base_model):
    _, card, page = _write(tmp_path, _report(settings={**SETTINGS, "model": model}))
    assert ModelCard(card).data.base_model == base_model
    assert base_model or ("/a/b" not in card and "/a/b" not in page)


def test_the_page_needs_no_other_file(tmp_path):
    _, _, page = _write(tmp_path)
    parsed = _Page(page)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert parsed.tags.count("svg") == 2
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    references = [v for _, name, v in parsed.attributes if name in ("src", "href", "xlink:href")]
    assert all(v.startswith("#") for v in references)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_page_and_card_say_what_is_in_the_report(tmp_path):
    written, card, page = _write(tmp_path)
    text = _Page(page).text
    test = written["splits"]["test"]
    for cell in (row for table in summary_table(written) for row in table.values()):
        assert cell in text
        assert cell in card
    for name, scores in test["per_class"].items():
        assert f"{name} {scores['precision']:.3f} {scores['recall']:.3f}" in text
    for warning in (
        "3 of 40 test texts (7.5 %) also stand word for word in the training part",
        "7 of 200 rows repeat",
        "2 texts stand under more than one label",
        "Few test texts of",
        "Two rows were skipped.",
    ):
        assert warning in text
        assert warning in card
    assert "secret" not in page
    assert "secret" not in card


def test_foreign_text_stays_text(tmp_path):
    evil = "<script>alert(1)</script>"
    names = [f"{evil}|`*_", "$x^2$ & 'q'", "日本語"]
    mistakes = [{"text": f"{evil} & more", "true": names[0], "predicted": evil, "probability": 0.9}]
    report = _report(names, mistakes=mistakes)
    report["data"]["notes"] = [evil]
    _, card, page = _write(tmp_path, report)
    parsed = _Page(page)
    assert "script" not in parsed.tags
    assert f"{evil} & more" in parsed.text
    assert evil not in card
    front = ModelCard(card)
    assert front.data.library_name == "lastblock"
    row = next(line for line in card.splitlines() if line.startswith("| &lt;script>"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 6


def test_many_classes_are_a_picture_and_a_list(tmp_path):
    names = [f"a rather long class name, number {i} $" for i in range(30)]
    _, _, page = _write(tmp_path, _report(names, {"train": 900, "test": 300}))
    parsed = _Page(page)
    assert parsed.tags.count("svg") == 3
    assert "Most often confused" in parsed.text


@pytest.mark.parametrize("validation", [True, False])
def test_gaps_are_left_out(tmp_path, validation):
    sizes = {"train": 30, "validation": 10} if validation else {"train": 30}
    report = _report(sizes=sizes)
    del report["data"]["notes"]
    written, _, page = _write(tmp_path, report, _history(validation=validation))
    assert list(written["splits"]) == list(sizes)
    assert "svg" in _Page(page).tags
    for path in tmp_path.rglob("*"):
        path.unlink() if path.is_file() else None
    _write(tmp_path, report, History())
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["confusion.png"]


@pytest.mark.parametrize(
    ("ours", "baseline", "words"),
    [
        (8.0, 0.0, "the classifier is clearly better"),
        (2.0, 2.0, "the intervals overlap, so the difference may be chance"),
        (0.0, 8.0, "it is clearly better, and far cheaper; use it instead"),
    ],
)
def test_the_verdict_is_honest(tmp_path, ours, baseline, words):
    report = _report()
    report["splits"]["test"] = _scores(["ham", "spam"], 300, 5, ours)
    report["baseline"]["test"] = _scores(["ham", "spam"], 300, 5, baseline)
    _, card, page = _write(tmp_path, report)
    assert words in card
    assert words in _Page(page).text


def test_figures_leave_no_trace_in_matplotlib(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    _write(tmp_path)
    assert dict(matplotlib.rcParams) == before
