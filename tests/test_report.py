"""Reports say what was measured, hold nothing foreign, and survive awkward names and gaps."""

import json
import re
from html.parser import HTMLParser

import jsonschema_rs
import numpy as np
import pytest
from huggingface_hub import ModelCard
from reports import SETTINGS, full_report, history, report, scores

from lastblock.evaluation import History
from lastblock.report import summary_table, write_report


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


def _write(folder, facts=None, seen=None):
    write_report(folder, facts or report(), seen or history())
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
    facts = report(mistakes=[])
    written, _, _ = _write(tmp_path, facts)
    assert list(written) == [
        *("data", "settings", "splits", "before_training", "baseline", "majority"),
        *("seconds", "tokens", "size_bytes", "history", "mistakes"),
    ]
    assert {key: written[key] for key in facts} == facts
    assert written["history"] == history().to_dict()


def test_what_json_cannot_hold_becomes_what_it_can(tmp_path):
    facts = report()
    facts["splits"]["test"]["loss"] = float("nan")
    facts["settings"] = {**SETTINGS, "warmup": np.float32(0.5), "folder": tmp_path}
    facts["more"] = {"a": np.arange(2), "b": (np.int64(1), np.bool_(True)), 3: float("inf")}
    written, card, _ = _write(tmp_path, facts)
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
    facts = report()
    rows = summary_table(facts)
    names = ["train", "validation", "test", "test: TF-IDF", "test: majority", "test: untrained"]
    assert [row["part"] for row in rows] == names
    test = facts["splits"]["test"]
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
    rows = summary_table({"splits": {"given": scores(["a", "b"], 10, 0)}})
    assert [row["part"] for row in rows] == ["given"]


def test_majority_agrees_with_scikit_learn(tmp_path):
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import f1_score, log_loss

    names = ["a", "b", "c"]
    facts = report(names)
    written, _, _ = _write(tmp_path, facts)

    def labels(part):
        return np.repeat(np.arange(3), np.sum(facts["splits"][part]["confusion"], axis=1))

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
    _, card, page = _write(tmp_path, report(settings={**SETTINGS, "model": model}))
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
    for name, of in test["per_class"].items():
        assert f"{name} {of['precision']:.3f} {of['recall']:.3f}" in text
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
    facts = report(names, mistakes=mistakes)
    facts["data"]["notes"] = [evil]
    _, card, page = _write(tmp_path, facts)
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
    _, _, page = _write(tmp_path, report(names, {"train": 900, "test": 300}))
    parsed = _Page(page)
    assert parsed.tags.count("svg") == 3
    assert "Most often confused" in parsed.text


@pytest.mark.parametrize("validation", [True, False])
def test_gaps_are_left_out(tmp_path, validation):
    sizes = {"train": 30, "validation": 10} if validation else {"train": 30}
    facts = report(sizes=sizes)
    del facts["data"]["notes"]
    written, _, page = _write(tmp_path, facts, history(validation=validation))
    assert list(written["splits"]) == list(sizes)
    assert "svg" in _Page(page).tags
    for path in tmp_path.rglob("*"):
        path.unlink() if path.is_file() else None
    _write(tmp_path, facts, History())
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
    facts = report()
    facts["splits"]["test"] = scores(["ham", "spam"], 300, 5, ours)
    facts["baseline"]["test"] = scores(["ham", "spam"], 300, 5, baseline)
    _, card, page = _write(tmp_path, facts)
    assert words in card
    assert words in _Page(page).text


@pytest.fixture(scope="module")
def schema(project_root):
    text = (project_root / "docs" / "report.schema.json").read_text(encoding="utf-8")
    return jsonschema_rs.validator_for(json.loads(text))


def test_reports_are_as_their_schema_says(tmp_path, schema):
    for facts, seen in [
        (report(), history()),
        (report(sizes={"train": 30}), History()),
        (full_report(["a", "b", "c"]), history(validation=False)),
    ]:
        written, _, _ = _write(tmp_path, facts, seen)
        assert [error.message for error in schema.iter_errors(written)] == []


@pytest.mark.parametrize("k", [2, 6, 77])
def test_a_full_report_shows_all_it_knows(tmp_path, k):
    names = ["ham", "spam"] if k == 2 else [f"class_{i}" for i in range(k)]
    facts = full_report(names)
    written, card, page = _write(tmp_path, facts)
    parsed = _Page(page)
    assert written["choice"] == facts["choice"]
    pictures = 7 if k == 2 else 6 + (k > 12)  # the thresholds are those of one class of two
    assert parsed.tags.count("svg") == pictures
    assert parsed.tags.count("mark") > 2
    for words in (
        "temperature 1.42",
        "Of the depths probed, 20 of 30 blocks told the classes apart best.",
        "At random, each part with its share of every class.",
        "7 rows repeat the text of an earlier row.",
        "Classes differ much in size.",
        "reads like",
        "localhost:8000/v1/predict",
        "1,963",  # tokens a second
    ):
        assert words in parsed.text
    assert parsed.text.count("repeat the text of an earlier row") == 1
    assert "figures/reliability.png" in card
    assert "figures/depth.png" in card
    ids = {v for _, name, v in parsed.attributes if name == "id"}
    links = {v[1:] for tag, name, v in parsed.attributes if tag == "a" and name == "href"}
    assert links <= ids


def test_repeated_runs_are_summed_up(tmp_path):
    of = {"mean": 0.91, "sd": 0.02, "ci95": [0.88, 0.94], "values": [0.89, 0.93]}
    facts = report(folds={"n": 2, "metrics": {"accuracy": of}})
    text = _Page(_write(tmp_path, facts)[2]).text
    assert "Over 2 folds" in text
    assert "91.0 % on average, with a standard deviation of 2.0 %" in text
    assert "88.0 % to 94.0 %" in text
    assert "seed alone" not in text


def test_what_was_explained_is_in_colour_and_cut_where_the_text_is(tmp_path):
    text = "word & " * 200
    words = [{"start": 7 * i, "end": 7 * i + 4, "contribution": 1.0} for i in range(200)]
    entry = {"text": text, "true": "ham", "predicted": "spam", "probability": 0.9, "words": words}
    _, _, page = _write(tmp_path, report(mistakes=[entry]))
    assert page.count('title="+1.00"') == 86
    assert "&amp;" in page
    assert "…</blockquote>" in page


@pytest.mark.parametrize(
    ("classes", "title"),
    [
        (["ham", "spam"], "ham or spam"),
        (list("abcdef"), "a, b, c, d and 2 more"),
        (["a_very_long_name_of_a_class", "another_long_name_of_a_class"], "a_very_long_name_of_a_"),
    ],
)
def test_titles_are_short(tmp_path, classes, title):
    _, card, page = _write(tmp_path, report(classes))
    assert title in card.replace("\\", "")
    assert title.replace("_", "_<wbr>") in page


def test_figures_leave_no_trace_in_matplotlib(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    _write(tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_a_file_s_folders_are_not_passed_on(tmp_path):
    facts = report(sizes={"train": 30, "test": 30})
    facts["data"]["notes"] = [f"{facts['data']['source']}: read column 'body' as text."]
    _, card, page = _write(tmp_path, facts)
    for text in (card, _Page(page).text):
        assert "messages.csv: read column 'body' as text." in text
        assert "secret" not in text


def test_time_that_no_step_took_is_told(tmp_path):
    facts = report(seconds={"train": 2.0, "total": 9.5})
    assert "all else 7.5" in _Page(_write(tmp_path, facts)[2]).text
