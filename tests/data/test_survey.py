"""What a close look finds: planted faults, and what is known of the real sets."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples, Label
from lastblock.data.survey import Finding, Survey, find_separator, survey
from lastblock.data.survey_page import render


def look(texts: list[str], labels: list[Any], **kwargs: Any) -> Survey:
    return survey(Examples(texts, labels, "here"), **kwargs)


def found(result: Survey) -> dict[str, Finding]:
    return {finding.kind: finding for finding in result.findings}


def distinct(n: int) -> list[str]:
    rng = random.Random(n)
    return [
        " ".join("".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(8)).capitalize()
        for _ in range(n)
    ]


def test_clean_examples_have_no_findings() -> None:
    labels = random.Random(1).choices(["x", "y"], k=60)
    result = look(distinct(60), labels)
    assert result.findings == []
    assert result.rows == result.usable == 60
    assert sum(of["rows"] for of in result.classes.values()) == 60
    assert result.scripts == {"Latin": 1.0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", " ", "a", "b", "A!", "ß\x85"]), st.sampled_from(["", "x", "y"])
        )
    )
)
def test_the_counts_add_up(rows: list[tuple[str, str]]) -> None:
    result = look([text for text, _ in rows], [label for _, label in rows])
    missing = {
        row
        for kind in ("empty_texts", "missing_labels")
        for row in (found(result)[kind].rows if kind in found(result) else ())
    }
    assert result.rows == len(rows)
    if len(rows) <= 20:
        assert result.rows == result.usable + len(missing)
    assert sum(of["rows"] for of in result.classes.values()) == result.usable
    json.dumps(result.to_dict())
    assert render(result).startswith("<!doctype html>")


def test_planted_faults_are_found_with_their_rows() -> None:
    texts = [
        *distinct(40),
        "",
        "  ",
        "Twice",
        "Twice",
        "twice!",
        "cafÃ©",
        "lost \ufffd",
        "<b>x</b>",
    ]
    labels: list[Label] = [*random.Random(2).choices(["x", "y"], k=40), "x", "y", "x", "y", "x"]
    labels += ["x", "X ", ""]
    kinds = found(look(texts, labels))
    assert kinds["empty_texts"].rows == [41, 42]
    assert "1 of them white space" in kinds["empty_texts"].message
    assert kinds["missing_labels"].rows == [48]
    assert kinds["duplicates"].rows == [44]
    assert kinds["normalised_duplicates"].rows == [45]
    assert kinds["conflicts"].rows == [43, 44]
    assert kinds["conflicts"].examples == ["Twice  (x, y)"]
    assert kinds["mojibake"].rows == [46]
    assert kinds["replacement"].rows == [47]
    assert kinds["html_tags"].rows == [48]
    assert kinds["label_variants"].rows == [47]
    assert kinds["single_example"].level == "error"


def test_near_duplicates_are_counted_beyond_the_others() -> None:
    texts = distinct(30)
    labels = ["x", "y"] * 15
    near = found(look([*texts, texts[0] + " now"], [*labels, "x"]))["near_duplicates"]
    assert near.rows == [31]
    assert "near_duplicates" not in found(look([*texts, texts[0]], [*labels, "x"]))


@pytest.mark.parametrize(
    ("leak", "where"), [("zzz {}", "begins with"), ("{} zzz", "ends with"), ("ab zzz {}", "holds")]
)
def test_a_word_that_gives_the_label_away(leak: str, where: str) -> None:
    labels = random.Random(3).choices(["x", "y"], k=100)
    texts = [
        leak.format(text) if label == "x" else text
        for text, label in zip(distinct(100), labels, strict=True)
    ]
    rule = found(look(texts, labels))["one_word_rule"]
    assert rule.level == "warning"
    assert "'x': right for 100.0%" in rule.message
    assert "right for 100.0% of all texts" in rule.message


def test_classes() -> None:
    texts = distinct(140)
    kinds = found(look(texts, ["a"] * 100 + ["b"] * 35 + ["c"] * 4 + ["d"]))
    assert kinds["imbalance"].message.startswith("unbalanced: 'a' has 100 rows and 'd' 1")
    assert "'c'" in kinds["small_classes"].message
    assert "'d'" in kinds["single_example"].message
    assert "sorted_by_class" in kinds
    assert found(look(texts, ["a"] * 140))["one_class"].level == "error"
    assert found(look(texts, ["a"] * 70 + ["nan"] * 70))["label_missing_names"].count == 70
    many = look(distinct(10_000), [str(i) for i in range(10_000)])
    assert found(many)["single_example"].count == 10_000
    assert len(found(many)["single_example"].message) < 200


def test_several_labels_a_text() -> None:
    labels: list[Label] = ["a", "b", "a|b", "b|a", "c", "a|c"] * 5
    assert find_separator(labels) == "|"
    assert find_separator(["a, b", "c"]) is None
    result = look(distinct(30), labels)
    assert {name: of["rows"] for name, of in result.classes.items()} == {"a": 20, "b": 15, "c": 10}


def test_texts_of_another_set() -> None:
    texts = distinct(30)
    other = Examples(
        [texts[0], texts[1].upper(), texts[2] + " now", "new"], ["x", "x", "y", "z"], "test.csv"
    )
    result = look(texts, ["x", "y"] * 15, against=other)
    assert result.compared is not None
    counts = {name: result.compared[name] for name in ("rows", "exact", "normalised", "near")}
    assert counts == {"rows": 4, "exact": 1, "normalised": 2, "near": 3}
    assert found(result)["shared"].rows == [1, 2, 3]
    assert "'z': only in test.csv" in found(result)["classes_only_there"].message


def test_tokens_are_counted_by_who_can() -> None:
    result = look(
        ["a b c", "d"],
        ["x", "y"],
        count_tokens=lambda texts: [len(t.split()) for t in texts],
        max_length=2,
    )
    assert result.lengths["tokens"]["longest"] == 3
    assert "50.0% of the texts are longer than 2 tokens" in found(result)["too_long"].message


def test_languages_and_scripts() -> None:
    result = look(["das ist nicht gut", "это не так", "1234"], ["x", "y", "x"])
    assert result.languages["German"] == pytest.approx(1 / 3)
    assert set(result.scripts) == {"Latin", "Cyrillic", "no letters"}


def test_the_page_escapes_what_it_shows() -> None:
    page = render(look(["<script>alert(1)</script>"] * 2, ["<b>", "y"]))
    assert "<script>" not in page
    assert "<b>'" not in page


# ------------------------------------------------------------------ real data


def of(folder: Path, path: str, **kwargs: Any) -> Survey:
    return survey(load_examples(folder / path, keep_empty=True), **kwargs)


def test_sms_spam(lastblock_data: Path) -> None:
    result = of(lastblock_data, "sms_spam/SMSSpamCollection")
    assert result.rows == 5574
    assert found(result)["duplicates"].count == 403
    assert result.classes["spam"]["rows"] == 747
    assert result.classes["spam"]["different"] == 653
    assert result.classes["spam"]["different_normalised"] < 610
    assert found(result)["html_entities"].count == 309


def test_a_quote_aware_reading_of_sms_spam_is_warned_of(
    lastblock_data: Path, tmp_path: Path
) -> None:
    """The same messages below a header: two would be swallowed if quotation marks were honoured."""
    original = (lastblock_data / "sms_spam" / "SMSSpamCollection").read_bytes()
    (tmp_path / "mine.tsv").write_bytes(b"label\ttext\n" + original)
    examples = load_examples(tmp_path / "mine.tsv")
    assert len(examples) == 5574
    assert any("quotation marks were read as part of the text" in n for n in examples.notes)


def test_trec6(lastblock_data: Path) -> None:
    test = load_examples(lastblock_data / "trec6" / "test.csv")
    result = of(lastblock_data, "trec6/train.csv", against=test)
    assert result.rows == 5452
    assert result.lengths["characters"]["median"] < 60
    assert "'ENTY' has 1,250 rows and 'ABBR' 86" in found(result)["imbalance"].message
    assert result.compared is not None
    assert result.compared["exact"] == 10


def test_sst2(lastblock_data: Path) -> None:
    kinds = found(of(lastblock_data, "sst2/train.csv"))
    assert {"lower_cased", "tokenised"} <= set(kinds)


def test_tweeteval(lastblock_data: Path) -> None:
    kinds = found(of(lastblock_data, "tweeteval_emotion/train.csv"))
    assert {"marks_names", "html_entities"} <= set(kinds)


def test_goemotions(lastblock_data: Path) -> None:
    result = of(lastblock_data, "goemotions/train.csv", quick=True)
    assert result.separator == "|"
    assert len(result.classes) == 28
    assert "'neutral' has 14,219 rows and 'grief' 77" in found(result)["imbalance"].message


def test_bbc_news(lastblock_data: Path) -> None:
    result = of(lastblock_data, "bbc_news/all.csv")
    assert found(result)["duplicates"].count == 98
    assert result.lengths["characters"]["median"] == 1966
    assert "sorted_by_class" in found(result)


def test_imdb(lastblock_data: Path) -> None:
    result = of(lastblock_data, "imdb_10k/train.csv", quick=True)
    assert [of["rows"] for of in result.classes.values()] == [2500, 2500]
    assert result.lengths["characters"]["median"] > 900
    assert {"html_tags", "control"} <= set(found(result))
