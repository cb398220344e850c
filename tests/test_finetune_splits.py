"""The ways to split that ``finetune`` knows, without training: which rows go where."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Said

from lastblock.config import DataConfig, RunConfig, TrainConfig
from lastblock.data.split import split_record
from lastblock.errors import ConfigError
from lastblock.finetune import Parts, read, split
from lastblock.recipe import DATA_RULES
from lastblock.runtime import Silent


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]
    rows = [
        f"{words[i % 8]} {words[i // 8 % 8]} {words[i * 5 % 7]} {words[i * 3 % 5]} says it all,"
        f"{'x' if i % 2 else 'y'},who{i % 12},{i}"
        for i in range(60)
    ]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text,label,who,when", *rows]) + "\n")
    return path


def parts_of(path: Path, recipe: Any = "auto", **options: Any) -> Parts:
    run = RunConfig(data=DataConfig(data=str(path), **options), train=TrainConfig(recipe=recipe))
    examples, _ = read(run.data, Silent())
    return split(examples, run, DATA_RULES[recipe], Silent())


def rows(parts: Parts) -> list[list[int]]:
    return [part.row_ids().tolist() for part in parts.values()]


def test_by_time(data: Path) -> None:
    assert rows(parts_of(data, time_column="when")) == [
        [*range(42)],
        [*range(42, 48)],
        [*range(48, 60)],
    ]


def test_by_group(data: Path) -> None:
    parts = parts_of(data, group_column="who")
    sides = [set(part.columns["who"]) for part in parts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 12


def test_by_hash(data: Path) -> None:
    assert sum(map(len, rows(parts_of(data, split="hash")))) == 60


def test_near_duplicates_stay_on_one_side_unless_told_otherwise(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    stems = [" ".join(f"{word:04x}" for word in rng.integers(0, 16**4, 12)) for _ in range(40)]
    lines = [
        f"{stem} ending{letter},{'xy'[i % 2]}" for i, stem in enumerate(stems) for letter in "ab"
    ]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")

    def sides(**options: Any) -> list[set[str]]:
        return [
            {text.split(" ending")[0] for text in p.texts}
            for p in parts_of(path, **options).values()
        ]

    assert sum(map(len, sides())) == len(stems)
    assert sum(map(len, sides(split="stratified"))) == len(stems)
    assert sum(map(len, sides(keep_together="equal"))) > len(stems)


def test_a_class_that_cannot_be_tested_is_said(tmp_path: Path) -> None:
    alike = "the same long text with but one letter that is another and it is"
    lines = [f"{alike} {letter},x" for letter in "abcdefghij"]
    lines += [f"{letter * 20} end,y" for letter in "abcdefghij"]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    said = Said()
    run = RunConfig(data=DataConfig(data=str(path)))
    split(read(run.data, said)[0], run, DATA_RULES["auto"], said)
    assert any("not in the test part, so not scored: 'x'" in line for line in said.lines)


def test_as_before(data: Path, tmp_path: Path) -> None:
    for recipe in ("auto", "chapter6"):
        parts = parts_of(data, recipe, balance="undersample")
        saved = tmp_path / "split.json"
        saved.write_text(json.dumps(split_record(parts, str(data))))
        assert rows(parts_of(data, split=str(saved))) == rows(parts)


def test_options_without_effect_are_refused(data: Path) -> None:
    for options, message in (
        ({"validation": str(data), "test": str(data), "group_column": "who"}, "nothing is left"),
        ({"test": str(data), "split": "hash"}, "split of DATA alone"),
        ({"recipe": "chapter6", "group_column": "who"}, "--group-column: this recipe shuffles"),
    ):
        with pytest.raises(ConfigError, match=message):
            parts_of(data, **options)
    with pytest.raises(ConfigError, match="--time-column and --group-column exclude each other"):
        DataConfig(data="x", time_column="a", group_column="b")


def test_what_looks_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    said = Said()
    path.write_text("text,label\na,x\nb,y\na,y\ncafÃ©,X\nd,X\ne,x\n")
    read(DataConfig(data=str(path)), said)
    warnings = [line for line in said.lines if line.startswith("warning: ")]
    for words in ("differ by case", "under several labels", "read as Windows-1252"):
        assert any(words in line for line in warnings)


def test_the_split_is_saved_with_the_model(pretrained: Path, tmp_path: Path) -> None:
    from tiny import messages

    from lastblock import TextClassifier, finetune
    from lastblock.config import ModelConfig

    texts, labels = messages(40)
    path = tmp_path / "data.csv"
    lines = [f'"{text}",{label}' for text, label in zip(texts, labels, strict=True)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")

    def run(output: str, split: str | None) -> dict[str, Any]:
        config = RunConfig(
            data=DataConfig(data=str(path), split=split),
            model=ModelConfig(model=str(pretrained), dtype="float32"),
            train=TrainConfig(epochs=1, seed=5 if split else 6),
            output=str(tmp_path / output),
        )
        finetune(config)
        return dict(json.loads((tmp_path / output / "split.json").read_text()))

    first = run("a", None)
    assert sum(map(len, first["rows"].values())) == 40
    assert run("b", str(tmp_path / "a" / "split.json")) == first
    TextClassifier.load(tmp_path / "b")
