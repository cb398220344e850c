"""The learning curve: what is drawn, how it is judged, and what it says about more labels."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny import messages

from lastblock.config import CurveConfig, DataConfig, ModelConfig, RunConfig, TrainConfig
from lastblock.errors import ConfigError
from lastblock.learning_curve import (
    answer,
    gain_per_doubling,
    learning_curve,
    spaced_sizes,
    stratified_order,
)


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=1, max_size=60), seed=st.integers(0, 2**32 - 1)
)
def test_every_beginning_has_the_classes_shares(labels: list[str], seed: int) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    classes = sorted(set(labels))
    shuffled = [labels[row] for row in order]
    assert set(shuffled[: len(classes)]) == set(classes)
    for n in range(1, len(labels) + 1):
        for name in classes:
            share = n * labels.count(name) / len(labels)
            assert abs(shuffled[:n].count(name) - share) <= len(classes)


def test_draws_differ() -> None:
    labels = ["a", "b"] * 20
    assert stratified_order(labels, 1).tolist() != stratified_order(labels, 2).tolist()


def test_sizes_are_spaced_on_a_log_scale() -> None:
    assert spaced_sizes(800, 2, 3) == [8, 80, 800]
    assert spaced_sizes(5, 2, 6) == [5]
    assert spaced_sizes(10, 2, 6) == [8, 9, 10]


def points(sizes: list[int], accuracies: list[list[float]]) -> list[dict[str, Any]]:
    return [
        {"n": n, "ours": {"accuracy": accuracy}}
        for n, drawn in zip(sizes, accuracies, strict=True)
        for accuracy in drawn
    ]


def test_the_gain_is_the_slope_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    sizes = [10, 20, 40, 80]
    drawn = rng.random((4, 3)).tolist()
    found = gain_per_doubling(points(sizes, drawn), sizes)
    line = stats.linregress(np.repeat(np.log2(sizes[-3:]), 3), np.ravel(drawn[-3:]))
    assert found["gain"] == pytest.approx(line.slope)
    reach = stats.t.ppf(0.975, 7) * line.stderr
    np.testing.assert_allclose(found["ci95"], [line.slope - reach, line.slope + reach])
    assert gain_per_doubling(points([10], [[0.5, 0.6, 0.7]]), [10])["gain"] is None


def test_the_gain_s_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    sizes, gain, covered = [50, 100, 200, 400], 0.02, 0
    for _ in range(1000):
        line = 0.7 + gain * np.log2(sizes)
        drawn = (line[:, None] + rng.normal(0, 0.01, (4, 3))).tolist()
        low, high = gain_per_doubling(points(sizes, drawn), sizes)["ci95"]
        covered += low <= gain <= high
    assert 930 <= covered <= 970


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ([[0.70, 0.71], [0.80, 0.81], [0.90, 0.91]], "Yes, more labels would help"),
        ([[0.90, 0.901], [0.90, 0.901], [0.90, 0.901]], "No, more labels would hardly help"),
        ([[0.70, 0.95], [0.95, 0.70], [0.90, 0.80]], "Perhaps more labels would help"),
        ([[0.7], [0.8], [0.7]][:1] * 3, "No, more labels would hardly help"),
    ],
)
def test_the_answer_is_plain(ours: list[list[float]], said: str) -> None:
    sizes = [50, 100, 200]
    curve = [{"n": n, "mean": float(np.mean(a))} for n, a in zip(sizes, ours, strict=True)]
    baseline = [{"n": n, "mean": 0.7} for n in sizes]
    text = answer(
        {"ours": curve, "baseline": baseline}, gain_per_doubling(points(sizes, ours), sizes)
    )
    assert text.startswith(said)
    assert "With 200 labels accuracy is" in text
    assert "that of TF-IDF 70.0 %" in text


def test_from_a_file(pretrained: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*messages(60), strict=True)])
    config = RunConfig(
        data=DataConfig(data=str(data)),
        model=ModelConfig(model=str(pretrained), dtype="float32", depth=2),
        train=TrainConfig(epochs=1),
    )
    found = learning_curve(config, CurveConfig(points=3, draws=2))
    assert found["test_texts"] == 12
    assert found["sizes"] == [8, 20, 48]
    assert [(p["n"], p["draw"]) for p in found["points"]] == [
        (n, draw) for draw in (0, 1) for n in (48, 20, 8)
    ]
    for name in ("ours", "baseline"):
        for at in found["curves"][name]:
            of_size = [p[name]["accuracy"] for p in found["points"] if p["n"] == at["n"]]
            assert at["mean"] == pytest.approx(np.mean(of_size))
            assert at["sd"] == pytest.approx(np.std(of_size, ddof=1))
    assert found["points"] == learning_curve(config, CurveConfig(points=3, draws=2))["points"]
    with pytest.raises(ConfigError, match="--points is 1"):
        CurveConfig(points=1)
